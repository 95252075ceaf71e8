"""Environments of which some steps are no experience: they only reset, or an agent waits for others."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class Carrying:
    """
    Which environments the next step only resets, and which rows of the last one count. If the environments are agents, such
    a step may also be one in which an agent that has ended waits for the others.

    ``resetting`` says in which environments the next step is such a step, ``[N]``, and is ``None`` if there are none. Of the
    last step, ``acted_on`` are the environments in whose observations a policy acts, and ``rewarded`` those of which it was
    experience, ``[N]`` each.
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

    def follow_step(self, ended: np.ndarray) -> None:
        """
        Keep where the next step is no experience.

        :param ended: environments whose episode has ended, and that were not reset in this step, ``[N]``
        """
        if self.carries:
            self.acted_on = ~ended
            self.rewarded = np.ones(self.num_envs, dtype=bool) if self.resetting is None else ~self.resetting
            self.resetting = ended.copy() if ended.any() else None

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
