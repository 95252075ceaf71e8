"""A task with several best ways to act: move a point to one of four goals."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.tasks.picture import Pictured

GOALS = np.array([(5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0)])
BOUND = 7.0  # largest coordinate
REACH = 1.0  # distance from a goal within which an episode ends
REACH_REWARD, ACTION_COST, DISTANCE_COST = 10.0, 30.0, 1.0  # as in the authors' code
START_DEVIATION = 0.1  # standard deviation of each coordinate at the start


class MultiGoal(Pictured):
    """
    Moves a point in the plane from the middle to one of four goals, (±5, 0) and (0, ±5), as in Haarnoja et al. (2017, section
    5.1). All goals are equally good.

        r = −30 |a|² − min_g |x − g|² + 10 [min_g |x − g| < 1]

    The action is the move, of at most 1 per coordinate; coordinates stay within ±7. The observation is the position x, and the
    distance is that after the move. The episode ends at a goal; registered, after 30 steps at the latest.
    ``info["goal"]`` is the number of the goal that was reached, from 0 to 3.

    :param render_mode: ``"rgb_array"`` or ``None``
    """

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        self.observation_space = spaces.Box(-BOUND, BOUND, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Place the point near the middle."""
        super().reset(seed=seed)
        self._position = self.np_random.normal(0.0, START_DEVIATION, 2)
        return self.seen(self._position.astype(np.float32)), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        move = np.clip(action, -1.0, 1.0).astype(float)
        self._position = np.clip(self._position + move, -BOUND, BOUND)
        squares = np.square(self._position - GOALS).sum(axis=1)
        goal = int(squares.argmin())
        reached = bool(squares[goal] < REACH**2)
        reward = -ACTION_COST * float(move @ move) - DISTANCE_COST * float(squares[goal]) + REACH_REWARD * reached
        return self.seen(self._position.astype(np.float32)), reward, reached, False, {"goal": goal} if reached else {}
