"""Observations together with their action masks, as the replay memory stores them: in the same arrays, row by row."""

from enum import Enum
from typing import Any

import numpy as np

from sb3_pgx.core.checks import Array


class Part(Enum):
    """Keys of stored observations. An environment's own keys may be any text, so these are none."""

    ALONE = "observations that are no dictionary"
    MASKS = "action masks"


def are_masked(observations: Array) -> bool:
    """Return whether observations hold their action masks."""
    return isinstance(observations, dict) and Part.MASKS in observations


def with_masks(observations: Array, action_masks: np.ndarray) -> Array:
    """
    Return observations that hold their action masks as a further part.

    :param observations: ``[..., *obs]``
    :param action_masks: which actions are valid, ``[..., A]``
    """
    parts: dict[Any, np.ndarray] = observations if isinstance(observations, dict) else {Part.ALONE: observations}
    return {**parts, Part.MASKS: action_masks}


def without_masks(observations: Array) -> tuple[Array, np.ndarray | None]:
    """Return the observations and the masks that :func:`with_masks` has put together; without masks, ``None``."""
    if not are_masked(observations):
        return observations, None
    parts: Any = {key: part for key, part in observations.items() if key is not Part.MASKS}  # type: ignore[union-attr]
    return parts.get(Part.ALONE, parts), observations[Part.MASKS]  # type: ignore[call-overload,index]
