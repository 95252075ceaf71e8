"""Transitions as the environments gave them: what ``VecNormalize`` makes of them changes while it learns."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pgx.common.checks import Array


def normalizes_last(env: VecEnv | None, normalize: VecNormalize | None) -> bool:
    """Whether what ``VecNormalize`` was given can be had: no wrapper above it has made something else of it."""
    return normalize is not None and env is normalize


class RawTransitions:
    """
    One rollout as it was before ``VecNormalize``.

    :param normalize: the environment, which has been reset or stepped
    """

    def __init__(self, normalize: VecNormalize):
        self.normalize = normalize
        self.observations: list[Array] = [normalize.get_original_obs()]  # [N, *obs] each, one more than there are rows
        self.rewards: list[np.ndarray] = []  # [N] each
        self.final_observations: list[Array] = []  # of truncated episodes, in the order of step and environment

    def add(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Keep the step that was taken last."""
        self.observations.append(self.normalize.get_original_obs())
        self.rewards.append(self.normalize.get_original_reward())
        for index in dones.nonzero()[0]:
            if infos[index].get("TimeLimit.truncated", False):
                self.final_observations.append(self.normalize.unnormalize_obs(infos[index]["terminal_observation"]))

    def arrays(self) -> dict[str, Any]:
        """What :class:`~sb3_pgx.acer.replay.Record` wants to know of the rollout."""
        return {
            "observations": stacked(self.observations[:-1]),
            "following": self.observations[-1],
            "final_observations": stacked(self.final_observations) if self.final_observations else None,
            "rewards": np.stack(self.rewards),
        }


def stacked(observations: list[Array]) -> Array:
    """Observations of equal structure along a new first dimension."""
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)  # type: ignore[arg-type]
