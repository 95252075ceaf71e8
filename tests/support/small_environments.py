"""Small environments in which every number is known, and a float64 feature extractor for policies on them."""

import os
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

DEVICE = os.environ.get("SB3_PGX_TEST_DEVICE", "cpu")


class Scripted(gym.Env):
    """
    Plays episodes of given lengths, over and over. The observation is (episode, step), the reward the step's number + 1.

    :param lengths: of the episodes
    :param truncates: which of them end by truncation
    """

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, lengths: list[int], truncates: list[bool] | None = None):
        self.lengths, self.truncates = lengths, truncates or [False] * len(lengths)
        self.episode, self.step_number = -1, 0
        self.bad_reward_at: tuple[int, int] | None = None
        self.bad_observation_at: tuple[int, int] | None = None
        self.raises_at: tuple[int, int] | None = None

    def observe(self) -> Any:
        if (self.episode, self.step_number) == self.bad_observation_at:
            return np.array([np.inf, 0.0], np.float32)
        return np.array([self.episode, self.step_number], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.step_number = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.step_number += 1
        here = (self.episode, self.step_number)
        if here == self.raises_at:
            raise RuntimeError("the simulator crashed")
        reward = np.nan if here == self.bad_reward_at else float(self.step_number)
        k = self.episode % len(self.lengths)
        done = self.step_number >= self.lengths[k]
        return self.observe(), reward, done and not self.truncates[k], done and self.truncates[k], {}


class ScriptedDict(Scripted):
    """:class:`Scripted` with the same observation in a dictionary."""

    observation_space = spaces.Dict({"vec": Scripted.observation_space, "n": spaces.Discrete(4)})

    def observe(self) -> Any:
        return {"vec": super().observe(), "n": self.episode % 4}


class AnySpace(gym.Env):
    """An environment of random observations and rewards in episodes of five steps, for any pair of spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        self.steps += 1
        return self.observation_space.sample(), total(action), False, self.steps >= 5, {}


def total(action: Any) -> float:
    """Return the sum of an action's numbers, in the parts of a dictionary or a tuple, too."""
    parts = action.values() if isinstance(action, dict) else action if isinstance(action, tuple) else [action]
    return float(sum(np.sum(part) for part in parts))


def vectorised(*envs: gym.Env) -> DummyVecEnv:
    return DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]


class DoubleFeatures(FlattenExtractor):
    """A feature extractor that makes a policy compute in float64 from the first layer on."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()
