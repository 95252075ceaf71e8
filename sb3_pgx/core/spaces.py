"""Conversions between an environment's spaces and a policy: choices count from 0, actions are bounded, types lose nothing."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from sb3_pgx.core.mixed_spaces import action_shape, by_part, is_mixed, structures


def start_of(space: spaces.Space) -> Any:
    """Return the first choice of a Discrete space, or the first choices of a MultiDiscrete one; ``None`` if all are 0."""
    if isinstance(space, spaces.Discrete):
        return space.start if space.start else None
    return space.start if isinstance(space, spaces.MultiDiscrete) and np.any(space.start) else None


def has_start(space: spaces.Space) -> bool:
    """Return whether some choices of the space, or of a part of it, do not count from 0."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(start_of(part) is not None for part in parts)


def zero_based(observations: Any, space: spaces.Space) -> Any:
    """
    Return observations as a policy takes them: choices count from 0. SB3's policies encode choice i as the i-th unit vector.

    :param observations: as the environment returns them; a dictionary for a Dict space
    :param space: observation space of one environment
    :return: the same object if nothing has to be shifted
    """
    if not has_start(space):
        return observations
    if isinstance(space, spaces.Dict):
        return {key: zero_based(values, space.spaces[key]) for key, values in observations.items()}
    return observations - start_of(space)


def within(actions: Any, space: spaces.Space) -> Any:
    """
    Return bounded, zero-based actions as members of the action space: integer boxes get the nearest whole numbers, and choices
    count from the space's ``start``.

    :param actions: actions of one environment or of several
    :param space: action space of one environment, not a mixed one
    """
    if isinstance(space, spaces.Box) and space.dtype.kind in "iu":
        actions = np.rint(actions)
    start = start_of(space)
    return (actions if start is None else actions + start).astype(space.dtype, copy=False)


def environment_actions(actions: np.ndarray, policy: BasePolicy, space: spaces.Space) -> Any:
    """
    Return the actions that the environments receive: rescaled if the policy squashes them, otherwise clipped to the bounds.
    Those of a mixed space are N dictionaries or tuples.

    :param actions: actions as the policy sampled them, ``[N, ...]``
    :param policy: policy that sampled them
    :param space: action space of one environment
    """
    if is_mixed(space):
        parts = ((x.reshape(-1, *action_shape(part)), part) for x, part in by_part(actions, space))
        return structures([environment_actions(x, policy, part) for x, part in parts], space)
    if isinstance(space, spaces.Box):
        actions = policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)
    return within(actions, space)


def kept_type(array: np.ndarray, space: spaces.Space) -> np.dtype[Any]:
    """
    Return the type in which to store observations, so that a policy computes the same from them as from the originals: the
    type of the space if it holds them exactly, otherwise ``float32``, in which SB3's policies compute.

    Images stay ``uint8`` unless they are normalised; ``VecNormalize`` turns whole numbers into floats.

    :param array: observations on which the policy acts
    :param space: observation space
    """
    exact = not isinstance(space, spaces.Box) or np.can_cast(array.dtype, space.dtype)
    return np.dtype(space.dtype if exact else np.float32)


def kept_action_type(space: spaces.Space) -> np.dtype[Any]:
    """
    Return the type in which to store sampled actions. Those of a Box are real numbers, even if the environment takes integers,
    and so are mixed ones.

    :param space: action space
    """
    if is_mixed(space):
        return np.dtype(np.float32)
    if not isinstance(space, spaces.Box):
        return np.dtype(space.dtype)
    return np.dtype(np.float64 if space.dtype == np.float64 else np.float32)


def check_choices(actions: Tensor, space: spaces.Space) -> None:
    """
    Check actions that a callback may have written.

    :param actions: zero-based
    :param space: any; only those of a ``Discrete`` space, or of such a part of a mixed space, are checked
    :raises ValueError: an action is not one of the space's
    """
    if is_mixed(space):
        for columns, part in by_part(actions, space):
            check_choices(columns, part)
    if isinstance(space, spaces.Discrete):
        wrong = actions[(actions < 0) | (actions >= space.n)]
        if len(wrong):
            raise ValueError(
                f"a callback has written the action {wrong[0].item():g}, and the space has {space.n} choices from 0"
            )
