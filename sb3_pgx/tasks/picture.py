"""Base of the tasks: a picture of the observation, since videos of any environment need one."""

from typing import Any

import gymnasium as gym
import numpy as np

HEIGHT, WIDTH = 64, 16  # pixels of a bar


class Pictured(gym.Env[np.ndarray, Any]):
    """
    An environment whose picture shows the entries of its observation as bars, from the lowest value below to the highest.

    :param render_mode: ``"rgb_array"`` or ``None``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self._last = np.zeros(1, np.float32)

    def seen(self, observation: np.ndarray) -> np.ndarray:
        """Keep an observation for the picture, and return it."""
        self._last = observation
        return observation

    def render(self) -> np.ndarray:
        """Return the picture, ``[64, 16 D, 3]``, of D numbers."""
        space: Any = self.observation_space
        heights = HEIGHT * (self._last - space.low) / (space.high - space.low)
        bars = np.arange(HEIGHT)[::-1, None] < heights  # [64, D]
        return np.repeat(np.where(bars, 0, 255).astype(np.uint8), WIDTH, axis=1)[:, :, None].repeat(3, axis=2)
