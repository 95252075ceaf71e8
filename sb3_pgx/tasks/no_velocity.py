"""CartPole and Pendulum without velocities: a policy needs memory to estimate them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv


class WithoutEntries(gym.ObservationWrapper):
    """
    Leave entries of a vector out of the observations.

    :param env: environment with vectors as observations
    :param kept: indices of the entries that stay
    """

    def __init__(self, env: gym.Env, kept: list[int]):
        super().__init__(env)
        self._kept = kept
        box = env.observation_space
        assert isinstance(box, spaces.Box)
        self.observation_space = spaces.Box(box.low[kept], box.high[kept], dtype=box.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the entries that stay."""
        return observation[self._kept]


def cart_pole(**kwargs: Any) -> gym.Env:
    """Return CartPole with position and angle alone. Arguments are those of Gymnasium's environment."""
    return WithoutEntries(CartPoleEnv(**kwargs), [0, 2])


def pendulum(**kwargs: Any) -> gym.Env:
    """Return Pendulum with the direction alone. Arguments are those of Gymnasium's environment."""
    return WithoutEntries(PendulumEnv(**kwargs), [0, 1])
