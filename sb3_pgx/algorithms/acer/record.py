"""
Records of rollouts for the replay memory. Under ``VecNormalize``, whose statistics change during training, they hold the raw
data of the environments.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pgx.algorithms.acer.masked_observations import with_masks
from sb3_pgx.algorithms.acer.replay import Record
from sb3_pgx.core.buffer_arrays import to_numpy
from sb3_pgx.core.checks import Array
from sb3_pgx.core.rollout import Rollout, map_tensors
from sb3_pgx.core.spaces import zero_based


def normalizes_last(env: VecEnv | None, normalize: VecNormalize | None) -> bool:
    """
    Return whether ``VecNormalize`` is the outermost wrapper, so that its raw inputs are what the model would see without it.

    :param env: the model's environments
    :param normalize: their ``VecNormalize`` wrapper, if there is one
    """
    return normalize is not None and env is normalize


class RawTransitions:
    """
    One rollout before ``VecNormalize``. Final observations are recovered from their normalised values, hence clipped to
    ``clip_obs``.

    :param normalize: the environments, already reset or stepped
    :param space: observation space; choices are stored counting from 0
    """

    def __init__(self, normalize: VecNormalize, space: spaces.Space):
        self.normalize, self.space = normalize, space
        self.observations: list[Array] = [self._original()]  # [N, *obs] each, one more than there are rows
        self.rewards: list[np.ndarray] = []  # [N] each
        self.final_observations: list[Array] = []  # of truncated episodes, ordered by step, then environment

    def add(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Record the last step.

        :param dones: true where an episode ended, ``[N]``
        :param infos: infos of the step, one per environment
        """
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
    Make the record of a rollout for the replay memory.

    :param rollout: evaluated rollout with the distribution that acted
    :param raw: the same rollout before ``VecNormalize``; ``None``: not available
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
    if raw is not None:
        record = _replaced(record, raw)
    if rollout.action_masks is None:
        return record
    assert rollout.last_masks is not None
    final_observations = record.final_observations
    if final_observations is not None:
        assert rollout.final_masks is not None
        final_observations = with_masks(final_observations, to_numpy(rollout.final_masks))
    return replace(
        record,
        observations=with_masks(record.observations, to_numpy(rollout.action_masks)),
        following=with_masks(record.following, to_numpy(rollout.last_masks)),
        final_observations=final_observations,
    )


def _replaced(record: Record, raw: RawTransitions) -> Record:
    """Return the record with the raw data in place of the normalised."""
    return replace(
        record,
        observations=stacked(raw.observations[:-1], raw.observations[-1]),
        following=raw.observations[-1],
        rewards=np.stack(raw.rewards),
        final_observations=stacked(raw.final_observations, raw.observations[-1]) if raw.final_observations else None,
    )


def stacked(observations: list[Any], like: Array) -> Array:
    """
    Stack observations along a new first dimension.

    :param observations: observations of any type
    :param like: observation whose keys and types the result gets
    """
    if isinstance(like, dict):
        return {key: stacked([o[key] for o in observations], x) for key, x in like.items()}  # type: ignore[misc]
    array = np.stack(observations)
    if like.dtype.kind in "biu" and array.dtype.kind == "f":
        array = array.round()  # normalised in float32, a whole number is off by 0.5 only beyond millions
    return array.astype(like.dtype, copy=False)
