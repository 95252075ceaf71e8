"""Cut rows of a rollout into sequences, over which a recurrent network runs, and put them into packed order."""

from typing import NamedTuple

import numpy as np
import torch as th
from torch import Tensor


class Packing(NamedTuple):
    """
    R rows as S sequences in packed order, as in torch's ``PackedSequence``: level by level, and the longest sequence
    first. Level l holds row l of every sequence with more than l rows, so level 0 holds the first rows.
    """

    order: Tensor  # [R], the packed rows as indices into the rows that were packed
    sizes: Tensor  # [L], number of rows per level; always on the CPU

    def unpacked(self, values: Tensor) -> Tensor:
        """Return values in packed order, ``[R, ...]``, in the order of the rows before."""
        return th.empty_like(values).index_copy_(0, self.order, values)

    def firsts(self) -> Tensor:
        """Return the indices of the sequences' first rows, ``[S]``."""
        return self.order[: int(self.sizes[0])]


def pack(begins: Tensor) -> Packing:
    """
    Cut consecutive rows into sequences.

    :param begins: whether a sequence begins in a row, ``[R]``; one always begins in the first row
    """
    begin = begins.numpy(force=True).copy()  # NumPy takes half as long as torch for so few numbers
    begin[0] = True
    (first,) = begin.nonzero()
    lengths = np.diff(first, append=len(begin))
    ranks = np.empty_like(lengths)
    ranks[np.argsort(-lengths, kind="stable")] = np.arange(len(lengths))
    sequence = begin.cumsum() - 1
    level = np.arange(len(begin)) - first[sequence]
    return Packing(*map(th.from_numpy, (np.argsort(level * len(first) + ranks[sequence]), np.bincount(level))))


def begins_of(rows: Tensor, starts: Tensor) -> Tensor:
    """
    Return whether a sequence begins in each of some rows: where an episode starts, and where a row does not continue the one
    before it.

    :param rows: rows of a rollout by their place t N + n, ``[R]``
    :param starts: whether an episode starts in a row of the rollout, ``[T, N]``
    :return: ``[R]``
    """
    continues = th.zeros_like(rows, dtype=th.bool)
    continues[1:] = rows[1:] == rows[:-1] + starts.shape[1]
    return starts.flatten()[rows] | ~continues
