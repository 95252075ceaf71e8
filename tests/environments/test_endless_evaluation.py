"""An evaluation that would wait for ever ends with a sentence."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from sb3_pgx import A2C
from sb3_pgx.environments import EvalCallback
from sb3_pgx.environments.evaluation import EndlessEpisodes, evaluate_policy


class Endless(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


class ActsAtRandom:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), int), state


def hidden_by_a_wrapper():
    return gym.wrappers.TimeLimit(Monitor(Endless()), 7)


@pytest.mark.slow
def test_an_episode_without_an_end_is_named_with_its_remedy():
    with pytest.raises(
        ValueError, match=r"environment 0 has not ended its episode after 100000 steps; wrap it in .*TimeLimit"
    ):
        evaluate_policy(ActsAtRandom(), Monitor(Endless()), 1)


def test_ends_that_the_monitor_does_not_see_are_named_with_their_cause():
    with pytest.raises(ValueError, match=r"environment 0 has ended 1000 episodes that SB3's Monitor has not seen"):
        evaluate_policy(ActsAtRandom(), hidden_by_a_wrapper(), 1)
    outside = Monitor(gym.wrappers.TimeLimit(Endless(), 7))
    assert evaluate_policy(ActsAtRandom(), outside, 2, return_episode_rewards=True) == ([7.0, 7.0], [7, 7])


def test_evaluations_in_training_end_likewise():
    callback = EvalCallback(hidden_by_a_wrapper(), n_eval_episodes=1, eval_freq=5)
    with pytest.raises(ValueError, match="SB3's Monitor has not seen"):
        A2C("MlpPolicy", gym.wrappers.TimeLimit(Endless(), 9), device="cpu").learn(10, callback)


def test_lost_lives_between_real_ends_are_no_end_and_environments_are_counted_apart():
    endless = EndlessEpisodes(max_steps=50, max_hidden=3)

    def step(index, done=False, episode=False):
        info = {"episode": {}} if episode else {}
        endless({"i": index, "done": done, "info": info, "is_monitor_wrapped": True})

    for _ in range(20):
        for _ in range(2):
            step(0, done=True)  # a life
        step(0, done=True, episode=True)
        step(1)
    for _ in range(29):
        step(1)
    with pytest.raises(ValueError, match="environment 1 has not ended its episode after 50 steps"):
        step(1)
