"""An environment of random frames: it returns images of Atari's size at no cost, so that only the algorithm is timed."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RandomFrames(gym.Env[np.ndarray, np.integer]):
    """
    Returns a few random frames ``[84, 84, 4]`` in turn. Actions have no effect. Episodes end after 100 steps.

    :param n_frames: number of different frames
    :param render_mode: ``"rgb_array"``, or ``None``
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]

    def __init__(self, n_frames: int = 16, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        self.action_space = spaces.Discrete(6)
        self._frames = np.random.default_rng(0).integers(0, 256, (n_frames, 84, 84, 4), dtype=np.uint8)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; arguments and result as in Gymnasium."""
        super().reset(seed=seed)
        self._step = 0
        return self._frame(), {}

    def step(self, action: np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Show the next frame; argument and result as in Gymnasium."""
        self._step += 1
        return self._frame(), float(self._step % 2), False, False, {}

    def render(self) -> np.ndarray:
        """Return the current frame as an RGB image."""
        return self._frame()[..., :3]

    def _frame(self) -> np.ndarray:
        return self._frames[self._step % len(self._frames)]


gym.register("RandomFrames-v0", "benchmarks.speed.frames:RandomFrames", max_episode_steps=100)
