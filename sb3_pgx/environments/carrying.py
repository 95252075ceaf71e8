"""Environments that reset in the step after an episode's end, which is no experience."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class Carrying:
    """
    Which environments the next step only resets, and which rows of the last one count.

    ``resetting`` says in which environments the next step only resets, ``[N]``, and is ``None`` if there are none. Of the last
    step, ``acted_on`` are the environments in whose observations a policy acts, and ``rewarded`` those that were not reset,
    ``[N]`` each.
    """

    num_envs: int
    carries: bool  # whether some steps only reset
    kind: str  # name of the environments' class
    resetting: np.ndarray | None = None
    acted_on: np.ndarray
    rewarded: np.ndarray

    def follow_reset(self) -> None:
        """Keep that all environments have been reset."""
        self.resetting, self.acted_on = None, np.ones(self.num_envs, dtype=bool)
        self.rewarded = self.acted_on

    def follow_step(self, dones: np.ndarray) -> None:
        """
        Keep which episodes have ended.

        :param dones: in which environments the step ended the episode, ``[N]``
        """
        if self.carries:
            self.acted_on = ~dones
            self.rewarded = np.ones(self.num_envs, dtype=bool) if self.resetting is None else ~self.resetting
            self.resetting = dones.copy() if dones.any() else None

    def refusal(self, reason: str, remedy: str) -> ValueError:
        """Return the error for what cannot leave out the steps that only reset."""
        return ValueError(
            f"{self.kind} resets an environment in the step after an episode's end, which is no experience, and {reason}; "
            f"{remedy}"
        )


def carrying_adapter(env: VecEnv | None) -> Any:
    """Return the environments of which some steps only reset, if ``env`` is made of them or wraps them; otherwise ``None``."""
    inner = None if env is None else env.unwrapped
    return inner if isinstance(inner, Carrying) and inner.carries else None
