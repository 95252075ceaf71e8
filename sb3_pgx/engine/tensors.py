"""
Many tensors at once: as one flat vector, copied into each other, and how often they have been written to.

Torch's fast functions for this have private names, which a version of torch may lack. Each has a public twin here that takes
about twice as long: gradient steps call them so often that the twins alone would cost a few percent of a small update.
"""

from collections.abc import Callable, Sequence

import torch as th
from torch import Tensor


def flatten_public(tensors: Sequence[Tensor]) -> Tensor:
    """Do what :data:`flatten` does, with public functions alone."""
    return th.cat([x.flatten() for x in tensors])


def unflatten_public(vector: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Do what :data:`unflatten` does, with public functions alone."""
    pieces = vector.split([x.numel() for x in like])
    return [piece.view_as(x) for piece, x in zip(pieces, like, strict=True)]


def copy_public(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Do what :data:`copy_all` does, with public functions alone."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


_utils = getattr(th, "_utils", None)

#: One vector ``[P]`` with the numbers of all tensors in their order; of a single tensor it may be a view.
flatten: Callable[[Sequence[Tensor]], Tensor] = getattr(_utils, "_flatten_dense_tensors", flatten_public)

#: Views of a vector's parts ``[P]`` in the shapes of other tensors, the reverse of :data:`flatten`.
unflatten: Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]] = getattr(
    _utils, "_unflatten_dense_tensors", unflatten_public
)

#: Copy every tensor of the second list into the tensor at the same place in the first.
copy_all: Callable[[Sequence[Tensor], Sequence[Tensor]], None] = getattr(th, "_foreach_copy_", copy_public)


def write_counts(tensors: Sequence[Tensor]) -> list[int] | None:
    """
    Return how often each tensor has been written to in place, or ``None`` if this version of torch does not tell.

    Writing through ``.data`` may go uncounted.
    """
    try:
        return [x._version for x in tensors]
    except AttributeError:
        return None
