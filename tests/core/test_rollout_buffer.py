"""The live view of a rollout, against SB3's own buffers filled by SB3's own collection."""

import pickle
import threading

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from support.buffers import NAMES, arrays_of
from support.small_environments import DEVICE, AnySpace, Scripted, ScriptedDict, vectorised

from sb3_pgx import A2C, REINFORCE

BOX = spaces.Box(-1, 1, (3,), np.float32)


class KeepBuffer(BaseCallback):
    """Copies of the buffer's arrays, and the minibatches it gives, at the end of the first rollout."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.arrays = {name: getattr(buffer, name).copy() for name in NAMES}
        observations = buffer.observations
        self.arrays["observations"] = dict(observations) if isinstance(observations, dict) else observations
        self.types = (buffer.full, buffer.pos, buffer.size(), buffer.buffer_size, buffer.n_envs)
        np.random.seed(0)
        self.batches = list(buffer.get(batch_size=4))


def first_buffer(model_class, make_env, policy="MlpPolicy"):
    callback = KeepBuffer()
    model_class(policy, make_env(), n_steps=5, seed=0, gae_lambda=0.9, device=DEVICE).learn(10, callback=callback)
    return callback


@pytest.mark.parametrize(
    "policy, make_env",
    [
        ("MlpPolicy", lambda: vectorised(Scripted([3]), Scripted([2]))),
        ("MultiInputPolicy", lambda: vectorised(ScriptedDict([3]), ScriptedDict([2]))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(spaces.Discrete(3), BOX) for _ in range(2)))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(BOX, spaces.MultiBinary(2)) for _ in range(2)))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(BOX, spaces.MultiDiscrete([2, 3])) for _ in range(2)))),
    ],
)
def test_names_shapes_types_and_minibatches_are_sb3s(policy, make_env):
    ours, theirs = first_buffer(A2C, make_env, policy), first_buffer(sb3.A2C, make_env, policy)
    assert ours.types == theirs.types
    for name in (*NAMES, "observations"):
        mine, other = arrays_of(ours.arrays[name]), arrays_of(theirs.arrays[name])
        for key, expected in other.items():
            assert isinstance(mine[key], np.ndarray) and mine[key].dtype == expected.dtype, name
            np.testing.assert_allclose(mine[key], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for mine, expected in zip(ours.batches, theirs.batches, strict=True):
        for a, b in zip(mine, expected, strict=True):
            for key, value in arrays_of(b).items():
                th.testing.assert_close(arrays_of(a)[key], value, rtol=1e-4, atol=1e-5)


def test_arrays_are_views_of_the_rollout_on_the_cpu():
    model = A2C("MlpPolicy", vectorised(Scripted([3])), n_steps=5, device="cpu").learn(5)
    model.last_rollout.advantages[2, 0] = 123.0
    model.last_rollout.observations[1, 0, 0] = 77.0
    assert model.rollout_buffer.advantages[2, 0] == 123.0
    assert model.rollout_buffer.observations[1, 0, 0] == 77.0


def test_minibatches_leave_out_rows_that_do_not_count():
    model = REINFORCE("MlpPolicy", vectorised(Scripted([6]), Scripted([2])), n_episodes=1, device=DEVICE).learn(6)
    assert (model.rollout_buffer.returns[2:, 1] == 0).all()
    batches = list(model.rollout_buffer.get(batch_size=3))
    assert [len(b.returns) for b in batches] == [3, 3, 2]
    seen = sorted(tuple(o) for b in batches for o in b.observations.tolist())
    assert seen == sorted([(0, k) for k in range(6)] + [(0, 0), (0, 1)])


@pytest.mark.parametrize("algorithm", [A2C, REINFORCE])
def test_a_buffer_is_pickled_without_its_model(algorithm):
    class WithLock(Scripted):
        def __init__(self, lengths):
            super().__init__(lengths)
            self.lock = threading.Lock()

    arguments = dict(discount_state_weighting=True) if algorithm is A2C else {}
    buffer = algorithm("MlpPolicy", vectorised(WithLock([5])), seed=0, device=DEVICE, **arguments).learn(5).rollout_buffer
    data = pickle.dumps(buffer)
    assert len(data) < 50_000
    for name in (*NAMES, "observations"):
        np.testing.assert_array_equal(getattr(pickle.loads(data), name), getattr(buffer, name))


def test_what_a_stopped_rollout_did_is_not_undone_by_a_later_call():
    class Stops(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 8

    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE).learn(20, callback=Stops())
    with pytest.raises(ValueError, match="the rollout buffer holds 2 of 5 steps"):
        model.train()
    assert model.num_timesteps == 8 and model._last_obs is not None
