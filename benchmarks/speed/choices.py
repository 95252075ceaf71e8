"""Environments with 20 actions, half of which are invalid in each state, that take nearly no time."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

N_STATES, N_ACTIONS, LENGTH = 64, 20, 100


class Choices(gym.Env[np.ndarray, np.int64]):
    """States in a circle with random observations and masks. The action changes nothing."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(N_ACTIONS)
        generator = np.random.default_rng(0)
        self._observations = generator.uniform(-1, 1, (N_STATES, 4)).astype(np.float32)
        self._masks = generator.random((N_STATES, N_ACTIONS)) < 0.5
        self._masks[:, 0] = True
        self._state = self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in the current state."""
        self._step = 0
        return self._observations[self._state], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go to the next state."""
        self._state = (self._state + 1) % N_STATES
        self._step += 1
        return self._observations[self._state], float(action == 0), self._step == LENGTH, False, {}

    def action_masks(self) -> np.ndarray:
        """Return which actions are valid, ``[20]``."""
        return self._masks[self._state]


gym.register("Choices-v0", "benchmarks.speed.choices:Choices")
