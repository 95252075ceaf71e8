"""
Mixed action spaces: ``Dict`` and ``Tuple``, whose parts are acted in at once.

A policy, a rollout and a batch keep a mixed action as one row of numbers: its parts, flattened, in the order of the space.
Choices count from 0. Dictionaries and tuples exist only in environments and as the result of ``predict``. Other action spaces
have a single part.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor

Actions = TypeVar("Actions", np.ndarray, Tensor)


def is_mixed(space: spaces.Space) -> bool:
    """Return whether an action has several parts."""
    return hasattr(space, "spaces") and isinstance(space, spaces.Dict | spaces.Tuple)  # which alone takes three times as long


def parts_of(space: spaces.Space) -> dict[Any, spaces.Space]:
    """Return the parts of an action space by key or index, in order. A space that is not mixed is its only part."""
    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    return dict(enumerate(space.spaces if isinstance(space, spaces.Tuple) else [space]))


def action_dims(space: spaces.Space) -> tuple[int, ...]:
    """Return how many numbers each part of an action has."""
    return tuple(get_action_dim(part) for part in parts_of(space).values())


def n_gaussian(space: spaces.Space) -> int:
    """Return how many numbers of an action belong to a Box, so that a policy has a standard deviation for them."""
    return sum(get_action_dim(part) for part in parts_of(space).values() if isinstance(part, spaces.Box))


def action_shape(space: spaces.Space) -> tuple[int, ...]:
    """Return the shape of an action as a policy samples it."""
    return (sum(action_dims(space)),) if is_mixed(space) else space.shape  # type: ignore[return-value]


def stored_space(space: spaces.Space) -> spaces.Space:
    """Return the space of the actions that a policy samples and a rollout stores: a Box for a mixed space."""
    return spaces.Box(-np.inf, np.inf, action_shape(space), np.float32) if is_mixed(space) else space


def by_part(actions: Actions, space: spaces.Space) -> Iterator[tuple[Actions, spaces.Space]]:
    """
    Yield each part of actions, ``[..., dim]``, and its space.

    :param actions: actions as a rollout stores them, ``[..., action_dim]``
    :param space: action space
    """
    bounds = pairwise(np.cumsum((0, *action_dims(space))))
    for (start, end), part in zip(bounds, parts_of(space).values(), strict=True):
        yield actions[..., start:end], part


def structures(parts: Sequence[np.ndarray], space: spaces.Space) -> list[Any]:
    """
    Return actions as the environments take them.

    :param parts: members of each part of the space, ``[N, *part]`` each
    :param space: mixed space
    :return: N dictionaries or tuples
    """
    rows = zip(*parts, strict=True)
    return [dict(zip(space.spaces, row, strict=True)) for row in rows] if isinstance(space, spaces.Dict) else list(rows)
