"""The façade over a rollout, against SB3's own buffers filled by SB3's own collection."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from problems import DEVICE, AnySpace, Scripted, ScriptedDict, vectorised
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx import A2C, PPO, REINFORCE
from sb3_pgx.common.rollout_buffer import RolloutView

BOX = spaces.Box(-1, 1, (3,), np.float32)
NAMES = ("actions", "rewards", "advantages", "returns", "episode_starts", "log_probs", "values")


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


def arrays_of(values):
    return values if isinstance(values, dict) else {"": values}


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
            # AnySpace is truncated every five steps: there SB3's rewards contain γ V, and ours do not.
            if not (name == "rewards" and isinstance(make_env().envs[0], AnySpace)):
                np.testing.assert_allclose(mine[key], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for mine, expected in zip(ours.batches, theirs.batches, strict=True):
        for a, b in zip(mine, expected, strict=True):
            for key, value in arrays_of(b).items():
                th.testing.assert_close(arrays_of(a)[key], value, rtol=1e-4, atol=1e-5)


def test_arrays_are_views_of_the_rollout_on_the_cpu():
    model = A2C("MlpPolicy", vectorised(Scripted([3])), n_steps=5, device="cpu").learn(5)
    model._rollout.advantages[2, 0] = 123.0
    model._rollout.observations[1, 0, 0] = 77.0
    assert model.rollout_buffer.advantages[2, 0] == 123.0
    assert model.rollout_buffer.observations[1, 0, 0] == 77.0


def test_minibatches_leave_out_rows_that_do_not_count():
    model = REINFORCE("MlpPolicy", vectorised(Scripted([6]), Scripted([2])), n_episodes=1, device=DEVICE).learn(6)
    assert (model.rollout_buffer.returns[2:, 1] == 0).all()
    batches = list(model.rollout_buffer.get(batch_size=3))
    assert [len(b.returns) for b in batches] == [3, 3, 2]
    seen = sorted(tuple(o) for b in batches for o in b.observations.tolist())
    assert seen == sorted([(0, k) for k in range(6)] + [(0, 0), (0, 1)])


class Shapes(BaseCallback):
    """Adds 1 to all rewards of the buffer and has returns and advantages computed again, as SB3's users do."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.rewards += 1
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.arrays = buffer.advantages.copy(), buffer.returns.copy()


def test_estimates_that_are_computed_again_keep_the_bootstraps_of_truncated_episodes():
    """Episodes that are truncated or terminated in the middle and at the end of a rollout, and one that goes on."""
    computed = []
    for model_class in (sb3.A2C, A2C):
        env = vectorised(Scripted([2, 3, 4], [True, False, True]), Scripted([3, 6], [True, True]), Scripted([7]))
        callback = Shapes()
        model_class("MlpPolicy", env, n_steps=9, gae_lambda=0.8, seed=0, device=DEVICE).learn(27, callback=callback)
        computed.append(callback.arrays)
    for theirs, ours in zip(*computed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


class Recording(RolloutBuffer):
    """A user's own buffer: counts what it is asked to do."""

    def __init__(self, *args, **kwargs):
        self.calls = []
        super().__init__(*args, **kwargs)

    def add(self, *args):
        self.calls.append("add")
        super().add(*args)

    def compute_returns_and_advantage(self, *args, **kwargs):
        self.calls.append("compute")
        super().compute_returns_and_advantage(*args, **kwargs)


def test_a_users_own_buffer_class_is_fed_as_sb3_feeds_it():
    def train(model_class):
        env = vectorised(Scripted([3, 4], [True, False]), Scripted([2], [True]))
        model = model_class("MlpPolicy", env, n_steps=5, seed=0, rollout_buffer_class=Recording, device=DEVICE)
        return model.learn(30)

    ours, theirs = train(A2C), train(sb3.A2C)
    assert ours.rollout_buffer.calls == theirs.rollout_buffer.calls
    for name in NAMES:
        expected = getattr(theirs.rollout_buffer, name)
        np.testing.assert_allclose(getattr(ours.rollout_buffer, name), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for p, q in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


class Transposing(RolloutBuffer):
    """A user's own buffer: every second minibatch has its pictures transposed, every third has them in double precision."""

    def get(self, batch_size=None):
        for i, samples in enumerate(super().get(batch_size)):
            observations = samples.observations.transpose(1, 2) if i % 2 else samples.observations
            yield samples._replace(observations=observations if i % 3 else observations.double())


def test_minibatches_of_a_users_own_buffer_need_not_be_laid_out_alike(graphs):
    def train(compile):
        env = vectorised(*(AnySpace(spaces.Box(-1, 1, (4, 4), np.float32), spaces.Discrete(3)) for _ in range(2)))
        model = PPO(
            "MlpPolicy",
            env,
            n_steps=24,
            batch_size=8,
            n_epochs=2,
            learning_rate=1e-2,
            seed=0,
            compile=compile,
            rollout_buffer_class=Transposing,
            policy_kwargs={"net_arch": [8]},
            device=DEVICE,
        )
        return model.learn(96).policy.parameters()

    for ours, eager in zip(train(True), train(False), strict=True):
        th.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 4, "a step for each of two orders and two types; acting gives values, too, and is not compiled"


@pytest.mark.parametrize("buffer_class", [RolloutBuffer, None])
def test_sb3s_own_classes_mean_no_choice(buffer_class):
    model = A2C("MlpPolicy", vectorised(Scripted([3])), rollout_buffer_class=buffer_class, device=DEVICE)
    assert model.rollout_buffer_class is RolloutBuffer  # what SB3 writes into a saved file
    assert isinstance(model.rollout_buffer, RolloutView)
    dictionary = A2C("MultiInputPolicy", vectorised(ScriptedDict([3])), device=DEVICE)
    assert dictionary.rollout_buffer_class is DictRolloutBuffer
    assert isinstance(dictionary.rollout_buffer, DictRolloutBuffer)


def test_an_algorithm_of_whole_episodes_refuses_a_users_own_buffer_class():
    with pytest.raises(ValueError, match=r"REINFORCE learns from whole episodes.*Recording"):
        REINFORCE("MlpPolicy", vectorised(Scripted([3])), rollout_buffer_class=Recording, device=DEVICE)
