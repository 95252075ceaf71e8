"""A task with mixed actions: move in the plane, and grip."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.tasks.picture import Pictured

REACH, STEP = 0.2, 0.25  # distances within which it grips, and which a move of 1 goes


class Gripper(Pictured):
    """
    Moves a gripper in the plane to an object, and closes it there. The action is a dictionary of a move (Box) and a choice:
    stay open or grip.

    Gripping ends the episode: with reward 1 if the object is in reach, and −1 otherwise. Each step costs its distance from the
    object, divided by 20. The observation is the object's position relative to the gripper.

    :param render_mode: ``"rgb_array"`` or ``None``
    """

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        self.observation_space = spaces.Box(-4.0, 4.0, (2,), np.float32)
        self.action_space = spaces.Dict({"move": spaces.Box(-1.0, 1.0, (2,), np.float32), "grip": spaces.Discrete(2)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Place the object."""
        super().reset(seed=seed)
        self._offset = self.np_random.uniform(-1, 1, 2)
        return self.seen(self._offset.astype(np.float32)), {}

    def step(self, action: dict[str, Any]) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, then grip or not."""
        self._offset = np.clip(self._offset - STEP * action["move"], -4.0, 4.0)
        distance = float(np.hypot(*self._offset))
        grips = bool(action["grip"])
        reward = -distance / 20 + (0.0 if not grips else 1.0 if distance < REACH else -1.0)
        return self.seen(self._offset.astype(np.float32)), reward, grips, False, {}
