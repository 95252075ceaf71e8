"""What a rollout leaves to the memory: under ``VecNormalize``, which changes while it learns, as the environments gave it."""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pgx.algorithms.acer.replay import Record
from sb3_pgx.core.buffer_arrays import to_numpy
from sb3_pgx.core.checks import Array
from sb3_pgx.core.rollout import Rollout, map_tensors
from sb3_pgx.core.spaces import zero_based


def normalizes_last(env: VecEnv | None, normalize: VecNormalize | None) -> bool:
    """Whether what ``VecNormalize`` was given can be had: no wrapper above it has made something else of it."""
    return normalize is not None and env is normalize


class RawTransitions:
    """
    One rollout as it was before ``VecNormalize``; final observations within its ``clip_obs``, since only what it made of them
    is told.

    :param normalize: the environment, which has been reset or stepped
    :param space: of its observations, which are kept zero-based
    """

    def __init__(self, normalize: VecNormalize, space: spaces.Space):
        self.normalize, self.space = normalize, space
        self.observations: list[Array] = [self._original()]  # [N, *obs] each, one more than there are rows
        self.rewards: list[np.ndarray] = []  # [N] each
        self.final_observations: list[Array] = []  # of truncated episodes, in the order of step and environment

    def add(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Keep the step that was taken last."""
        self.observations.append(self._original())
        self.rewards.append(self.normalize.get_original_reward())
        for index in dones.nonzero()[0]:
            if infos[index].get("TimeLimit.truncated", False):
                final = self.normalize.unnormalize_obs(infos[index]["terminal_observation"])
                self.final_observations.append(zero_based(final, self.space))

    def _original(self) -> Array:
        return zero_based(self.normalize.get_original_obs(), self.space)


def record_of(rollout: Rollout, raw: RawTransitions | None) -> Record:
    """
    :param rollout: evaluated, with the distribution that acted
    :param raw: the same rollout before ``VecNormalize``; ``None``: there is none, or it is not to be had
    """
    assert rollout.distribution is not None
    final = rollout.final_observations
    record = Record(
        observations=map_tensors(to_numpy, rollout.observations),
        following=map_tensors(to_numpy, rollout.last_observations),
        actions=to_numpy(rollout.actions),
        behaviour=to_numpy(rollout.distribution),
        rewards=to_numpy(rollout.rewards),
        terminated=to_numpy(rollout.terminated),
        truncated=to_numpy(rollout.truncated),
        final_observations=None if final is None else map_tensors(to_numpy, final),
    )
    if raw is None:
        return record
    return replace(
        record,
        observations=stacked(raw.observations[:-1], raw.observations[-1]),
        following=raw.observations[-1],
        rewards=np.stack(raw.rewards),
        final_observations=stacked(raw.final_observations, raw.observations[-1]) if raw.final_observations else None,
    )


def stacked(observations: list[Any], like: Array) -> Array:
    """Observations along a new first dimension, in the order and of the types of others: final ones come in any."""
    if isinstance(like, dict):
        return {key: stacked([o[key] for o in observations], x) for key, x in like.items()}  # type: ignore[misc]
    array = np.stack(observations)
    if like.dtype.kind in "biu" and array.dtype.kind == "f":
        array = array.round()  # normalised in single precision, a whole number comes back 0.5 off only beyond millions
    return array.astype(like.dtype, copy=False)
