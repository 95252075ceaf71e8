"""A rollout buffer of a user's own class."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from support.buffers import NAMES
from support.small_environments import DEVICE, AnySpace, Scripted, ScriptedDict, vectorised

from sb3_pgx import A2C, PPO, REINFORCE
from sb3_pgx.core.rollout_buffer import RolloutView


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
