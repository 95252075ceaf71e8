"""Batches of ACER: segments of consecutive transitions, on-policy or replayed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch as th
from torch import Tensor

from sb3_pgx.core.rollout import Observations, Rows, map_tensors


@dataclass
class Segments(Rows):
    """
    M segments of T consecutive transitions, each of one environment; B = T * M rows, ordered by step, then by segment.

    Episodes may end within a segment. The first K final observations belong to the K truncated rows, in the order of
    ``truncated.nonzero()``; any further ones are padding.
    """

    observations: Observations  # [(T + 1) * M, *obs]: those of the rows, then those after the last ones
    actions: Tensor  # [B, action_dim]
    behaviour: Tensor  # [B, P], packed parameters of the action distribution that acted
    rewards: Tensor  # [T, M]
    terminated: Tensor  # [T, M], boolean
    truncated: Tensor  # [T, M], boolean
    final_observations: Observations | None  # [K or more, *obs]; None: no row is truncated
    noise: Tensor | None = None  # Box: standard normal numbers for sampling actions, [1 + 2 n, B, D]
    bounds: Tensor | None = None  # Box: lowest and highest actions, [2, D]
    action_masks: Tensor | None = None  # [(T + 1) * M, A], boolean, for all observations; None: all actions are valid
    final_masks: Tensor | None = None  # [K or more, A], boolean, for the final observations

    def __len__(self) -> int:
        return self.rewards.numel()

    def with_observations(self, function: Callable[[Observations], Observations]) -> "Segments":
        """Return the same segments with ``function`` applied to all observations."""
        final = None if self.final_observations is None else function(self.final_observations)
        return replace(super().with_observations(function), final_observations=final)

    def for_graph(self) -> "Segments":
        """Return the segments with M final observations, or B if M are too few; copies of other observations pad them."""
        n_segments, final = self.rewards.shape[1], self.final_observations
        known = 0 if final is None else count(final)
        missing = room_for(known, n_segments, len(self)) - known
        if not missing:
            return self
        others = map_tensors(lambda x: x[:missing], self.observations)
        final = others if final is None else joined(final, others)
        if self.action_masks is None:
            return replace(self, final_observations=final)
        known_masks = [] if self.final_masks is None else [self.final_masks]
        return replace(self, final_observations=final, final_masks=th.cat([*known_masks, self.action_masks[:missing]]))

    def suspects(self) -> dict[str, Tensor]:
        """Return tensors, by name, that may be to blame for a loss that is not finite."""
        return {"rewards": self.rewards}


def joined(some: Observations, others: Observations) -> Observations:
    """Concatenate two sets of observations."""
    if isinstance(others, dict):
        return {key: th.cat([some[key], x]) for key, x in others.items()}  # type: ignore[index]
    return th.cat([some, others])  # type: ignore[list-item]


def count(observations: Observations) -> int:
    """Return the number of observations."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def room_for(n_final: int, n_segments: int, n_rows: int) -> int:
    """
    Return to how many final observations a batch is padded: one of two numbers, because each number needs its own graph.

    :param n_final: number of final observations that the batch needs
    :param n_segments: M
    :param n_rows: B
    """
    return n_segments if n_final <= n_segments else n_rows


def windows(counts: np.ndarray, size: int) -> np.ndarray:
    """
    Return indices that cut concatenated batches of different lengths into windows of the same length.

    Batch u's own elements come first; the rest of its window is padding.

    :param counts: number of elements of each of the U batches, ``[U]``
    :param size: length of a window, at least the largest count
    :return: indices, ``[U, size]``
    """
    return np.minimum((counts.cumsum() - counts)[:, None] + np.arange(size), counts.sum() - 1)
