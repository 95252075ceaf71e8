"""Eager acting without a callback: a policy that is not finite is refused as with the checks of torch's distributions."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from support.capabilities import envs
from support.models import make

from sb3_pgx.core.undo import Refusal


def test_parameters_that_are_not_numbers_are_named_and_the_rollout_is_undone():
    model = make("ppo", envs(action_space=spaces.Discrete(3)), compile=False).learn(12)
    before = model.num_timesteps
    with th.no_grad():
        model.policy.action_net.weight.fill_(th.nan)
    with pytest.raises(Refusal, match=r"cannot act after update \d+: the parameter action_net.weight is not finite"):
        model.learn(12, reset_num_timesteps=False)
    assert model.num_timesteps == before


class Reads(BaseCallback):
    def _on_step(self):
        logits = self.model.policy.action_dist.distribution.logits
        assert logits.shape == (self.model.n_envs, 3)
        return True


def test_a_callback_finds_the_distribution_of_the_step():
    make("ppo", envs(action_space=spaces.Discrete(3)), compile=False).learn(12, Reads())


def test_the_users_own_error_is_the_users():
    model = make("ppo", envs(action_space=spaces.Discrete(3)), compile=False)

    def fails(*_):
        raise RuntimeError("my own")

    model.policy.action_net.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match=r"^my own"):
        model.learn(12)
