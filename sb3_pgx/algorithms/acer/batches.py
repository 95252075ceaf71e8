"""The batches of segments that ACER's objective takes, made from a new rollout and from samples of the memory."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_pgx.algorithms.acer.masked_observations import without_masks
from sb3_pgx.algorithms.acer.replay import Sample
from sb3_pgx.algorithms.acer.segments import Segments, joined, room_for, windows
from sb3_pgx.core.rollout import Rollout, map_tensors


class Batches:
    """
    Makes batches, with what the dueling network needs to sample Box actions.

    :param space: of the actions
    :param device: of the model
    """

    def __init__(self, space: spaces.Space, device: th.device):
        self.device = device
        self.bounds: Tensor | None = None  # lowest and highest actions of a Box, [2, D]
        if isinstance(space, spaces.Box):
            bounds = np.stack([space.low.ravel(), space.high.ravel()]).astype(np.float32)
            self.bounds = th.from_numpy(bounds).to(device)

    def of_rollout(self, rollout: Rollout, n_samples: int) -> Segments:
        """
        Return a rollout as one batch, with a segment per environment.

        :param rollout: evaluated, with the parameters of its action distributions
        :param n_samples: actions over which the dueling network averages
        """
        assert rollout.distribution is not None
        observations = map_tensors(lambda x: x.flatten(end_dim=1), rollout.observations)
        actions, masks = rollout.actions.flatten(end_dim=1), rollout.action_masks
        return Segments(
            joined(observations, rollout.last_observations),
            actions,
            rollout.distribution.flatten(end_dim=1),
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            rollout.final_observations,
            self._noise(actions, n_samples),
            self.bounds,
            None if masks is None or rollout.last_masks is None else th.cat([masks.flatten(end_dim=1), rollout.last_masks]),
            rollout.final_masks,
        )

    def of_sample(self, sample: Sample, normalize: VecNormalize | None, n_samples: int) -> list[Segments]:
        """
        Return the U batches of a sample, all with tensors of the same shapes.

        :param sample: U batches of segments of the memory
        :param normalize: normalises observations and rewards now; ``None``: they are learned from as they were stored
        :param n_samples: actions over which the dueling network averages
        """
        (observations, masks), rewards = without_masks(sample.observations), sample.rewards
        final, final_masks = (None, None) if sample.final_observations is None else without_masks(sample.final_observations)
        if normalize is not None:
            observations, rewards = normalize.normalize_obs(observations), normalize.normalize_reward(rewards)
            final = None if final is None else normalize.normalize_obs(final)
        if final is not None:
            counts = sample.truncated.sum(axis=(1, 2))
            places = windows(counts, room_for(counts.max(), rewards.shape[2], rewards[0].size))
            final = map_tensors(lambda x: x[places], final)
            final_masks = None if final_masks is None else final_masks[places]
        actions = self._tensor(sample.actions).flatten(1, 2)
        drawn = Segments(
            map_tensors(lambda x: self._tensor(x).flatten(1, 2), observations),
            actions,
            self._tensor(sample.behaviour).flatten(1, 2),
            self._tensor(rewards),
            self._tensor(sample.terminated),
            self._tensor(sample.truncated),
            None if final is None else map_tensors(self._tensor, final),
            self._noise(actions, n_samples),
            None if self.bounds is None else self.bounds.expand(len(actions), -1, -1),
            None if masks is None else self._tensor(masks).flatten(1, 2),
            None if final_masks is None else self._tensor(final_masks),
        )
        return list(drawn.split_with(Tensor.unbind))

    def _tensor(self, array: Any) -> Tensor:
        return th.from_numpy(array).to(self.device)

    def _noise(self, actions: Tensor, n_samples: int) -> Tensor | None:
        """Draw the normal random numbers of a gradient step for Box actions ``[..., B, D]``; ``None`` for Discrete."""
        if self.bounds is None:
            return None
        *batches, rows, n = actions.shape
        return th.randn((*batches, 1 + 2 * n_samples, rows, n), device=self.device)
