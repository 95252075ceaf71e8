"""Time limits of every length, next to the length of a rollout: rows, bootstrap values and advantages are SB3's."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from support.array_environments import TERMINATED, TRUNCATED, Arrays, Episodes, assert_same, trained

from sb3_pgx import PPO

N_STEPS = 8
LIMITS = [1, 2, 3, 7, 8, 9]  # 7 and 9: one less and one more than a rollout has steps


class Endless(Episodes):
    """An episode that only a time limit ends."""

    def __init__(self, index):
        super().__init__(index, [(10**9, TERMINATED)])


def limited(limit):
    """Two environments: one with the limit, one with the next longer one, so that ends do not always coincide."""
    return [lambda i=i: gym.wrappers.TimeLimit(Endless(i), limit + i) for i in range(2)]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_rollout_is_that_of_sb3s_environments_one_by_one(mode, limit):
    settings = dict(n_steps=N_STEPS, batch_size=8, timesteps=3 * 2 * N_STEPS)
    ours = trained("ppo", SyncVectorEnv(limited(limit), autoreset_mode=mode), **settings)
    theirs = trained("ppo", DummyVecEnv([lambda make=make: Monitor(make()) for make in limited(limit)]), **settings)
    assert_same(ours, theirs)
    assert ours.last_rollout.truncated.any() or limit > N_STEPS


def acting_alike(model):
    """Make a policy whose actions depend on the observation alone: one choice has all of the probability."""
    th.manual_seed(5)
    with th.no_grad():
        for p in model.policy.parameters():
            p.copy_(th.randn_like(p))
        model.policy.action_net.weight.mul_(1e4)
    return model


def ppo(cls, env, n_steps, **kwargs):
    settings = dict(n_steps=n_steps, batch_size=max(n_steps * env.num_envs, 2), n_epochs=1, gamma=0.9, gae_lambda=0.8)
    kwargs["policy_kwargs"] = dict(net_arch=[4], optimizer_class=th.optim.SGD)
    return acting_alike(cls("MlpPolicy", env, learning_rate=0.0, seed=0, device="cpu", **settings, **kwargs))


@pytest.mark.parametrize("limit", LIMITS)
def test_rows_that_are_left_out_change_nothing_in_the_others(limit):
    """Some steps only reset here. SB3 steps each environment alone for as many steps as count."""
    patterns = [[(limit, TRUNCATED)], [(limit + 1, TRUNCATED)]]
    env = Arrays(patterns, AutoresetMode.NEXT_STEP, honours_mask=False, wild=1e6)
    model = ppo(PPO, env, 3 * N_STEPS, compile=False).learn(1)
    rollout = model.last_rollout
    for i, pattern in enumerate(patterns):
        valid = rollout.valid[:, i]
        alone = DummyVecEnv([lambda i=i, pattern=pattern: Episodes(i, pattern)])
        expected = ppo(sb3.PPO, alone, int(valid.sum())).learn(1).rollout_buffer
        assert not valid.all()
        np.testing.assert_array_equal(rollout.observations[valid, i], expected.observations.reshape(-1, 3))
        np.testing.assert_array_equal(rollout.actions[valid, i].flatten(), expected.actions.flatten())
        starts = np.r_[True, rollout.truncated[valid, i][:-1]]
        np.testing.assert_array_equal(starts, expected.episode_starts.flatten())
        # SB3's rewards contain γ V of the final observation.
        bootstrapped = rollout.rewards + 0.9 * rollout.next_values * rollout.truncated
        for ours, theirs in (
            (rollout.values, expected.values),
            (bootstrapped, expected.rewards),
            (rollout.advantages, expected.advantages),
            (rollout.returns, expected.returns),
        ):
            np.testing.assert_allclose(ours[valid, i], theirs.flatten(), rtol=1e-4, atol=1e-5)
