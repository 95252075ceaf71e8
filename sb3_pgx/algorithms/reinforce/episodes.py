"""Rearrange a rollout of whole episodes so that each episode is a column."""

from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_pgx.core.rollout import CollectedRollout


@dataclass(frozen=True)
class Episodes:
    """
    Positions of a rollout's rows in ``[L, E]``: row t, column i is step t of episode i; the longest of E episodes has L steps.

    :param step: t of each valid row, ``[R]``
    :param number: i of each valid row, ``[R]``
    :param rows: true for valid rows, ``[T, N]``
    """

    step: Tensor
    number: Tensor
    rows: Tensor

    @classmethod
    def of(cls, rollout: CollectedRollout) -> "Episodes":
        """
        Find the episodes of a rollout.

        :param rollout: a rollout whose valid rows are whole episodes
        """
        starts = rollout.episode_starts & rollout.valid
        time = th.arange(len(starts), device=starts.device)[:, None].expand_as(starts)
        step = time - th.where(starts, time, 0).cummax(dim=0).values
        in_env = starts.cumsum(dim=0) - 1
        before = starts.sum(dim=0).cumsum(dim=0) - starts.sum(dim=0)  # episodes of the environments before this one
        return cls(step[rollout.valid], (before + in_env)[rollout.valid], rollout.valid)

    def __len__(self) -> int:
        return int(self.number.max()) + 1

    def columns(self, values: Tensor) -> Tensor:
        """Rearrange ``[T, N]`` to ``[L, E]``, with zeros after an episode's end."""
        result = values.new_zeros(int(self.step.max()) + 1, len(self))
        result[self.step, self.number] = values[self.rows]
        return result

    def back(self, columns: Tensor) -> Tensor:
        """Rearrange ``[L, E]`` to ``[T, N]``, with zeros in rows that are not valid."""
        result = columns.new_zeros(self.rows.shape)
        result[self.rows] = columns[self.step, self.number]
        return result

    def discounts(self, gamma: float, dtype: th.dtype) -> Tensor:
        """Return γ^t for each row, ``[T, N]``, with zeros in rows that are not valid."""
        result = th.zeros(self.rows.shape, dtype=dtype, device=self.rows.device)
        result[self.rows] = gamma ** self.step.to(dtype)
        return result
