"""Many tensors at once: as one flat vector, and copied into each other."""

from collections.abc import Sequence

import torch as th
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return the numbers of all tensors, in their order, in one new vector ``[P]``."""
    return th.cat([x.flatten() for x in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a vector's parts ``[P]`` in the shapes of other tensors, the reverse of :func:`flatten`."""
    pieces = vector.split([x.numel() for x in like])
    return [piece.view_as(x) for piece, x in zip(pieces, like, strict=True)]


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy every tensor of the second list into the tensor at the same place in the first."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
