"""Checks of arguments and of what an environment returned: each failure is one sentence with its remedy."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.errors import warn

Array = np.ndarray | dict[str, np.ndarray]


def is_number(value: Any) -> bool:
    """Return whether a value is a real number; truth values do not count."""
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))


def without_arrays(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert NumPy's scalars, and arrays and tensors without dimensions, to Python's numbers and truth values."""
    return {name: x.item() if getattr(x, "shape", None) == () and hasattr(x, "item") else x for name, x in arguments.items()}


def check_unit_interval(**arguments: float) -> None:
    """
    Check that arguments are numbers in [0, 1].

    :param arguments: arguments by name
    :raises ValueError: an argument is not
    """
    for name, value in arguments.items():
        if not is_number(value):
            raise ValueError(f"{name}={value!r} must be a number in [0, 1]")
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}={value} is outside [0, 1]")


def check_counts(least: int = 1, **arguments: int) -> None:
    """
    Check that arguments are whole numbers.

    :param least: smallest allowed number
    :param arguments: arguments by name
    :raises ValueError: an argument is not a whole number, or is below ``least``
    """
    for name, value in arguments.items():
        if not is_number(value) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")


def check_positive(**arguments: float) -> None:
    """
    Check that arguments are positive, finite numbers.

    :param arguments: arguments by name
    :raises ValueError: an argument is not
    """
    for name, value in arguments.items():
        if not is_number(value) or not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be positive and finite")


def check_positive_or_none(none: str, **arguments: float | None) -> None:
    """
    Check that arguments are positive numbers, which may be infinite, or ``None``.

    :param none: effect of ``None``, for the error, such as "disables clipping"
    :param arguments: arguments by name
    :raises ValueError: an argument is neither
    """
    for name, value in arguments.items():
        if value is not None and (not is_number(value) or not value > 0):
            raise ValueError(f"{name}={value!r} must be positive; None {none}")


def check_finite_not_negative(**arguments: float) -> None:
    """
    Check that arguments are finite numbers >= 0.

    :param arguments: arguments by name
    :raises ValueError: an argument is not
    """
    for name, value in arguments.items():
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} must be finite and not negative")


def check_choice(choices: tuple[Any, ...], **arguments: Any) -> None:
    """
    Check that arguments have allowed values.

    :param choices: allowed values
    :param arguments: arguments by name
    :raises ValueError: an argument has another value
    """
    for name, value in arguments.items():
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")


def as_flag(name: str, value: Any) -> bool:
    """
    Return an argument as a truth value. Users of SB3 may also pass 0 or 1.

    :param name: name of the argument, for the error
    :param value: the argument
    :raises ValueError: the value is anything else
    """
    (plain,) = without_arrays({name: value}).values()
    if isinstance(plain, Integral) and plain in (0, 1):
        return bool(plain)
    raise ValueError(f"{name}={value!r} must be True or False")


def warn_of_uneven_batches(batch_size: int, n_steps: int, n_envs: int) -> None:
    """Warn as SB3 does if the rows of a rollout do not fill a whole number of minibatches."""
    rows, where = n_steps * n_envs, f"(n_steps={n_steps}, n_envs={n_envs})"
    if batch_size > rows:
        warn(f"batch_size={batch_size} is larger than a rollout {where}: every epoch is one mini-batch of all its {rows} rows")
    elif rows % batch_size:
        warn(
            f"batch_size={batch_size} does not divide the {rows} rows of a rollout {where}: "
            f"there will be a truncated mini-batch of size {rows % batch_size} in every epoch"
        )


def environment_name(env: VecEnv, index: int) -> str:
    """Return ``environment 3 (CartPole-v1)``, without the id if the environment has no spec."""
    try:
        return f"environment {index} ({env.get_attr('spec', index)[0].id})"
    except Exception:  # any vectorised environment may lack it, each in its own way
        return f"environment {index}"


def by_name(observations: Any) -> dict[str, np.ndarray]:
    """Return observations under the names that errors use, such as ``observation`` or ``observation image``."""
    if isinstance(observations, dict):
        return {f"observation {key}": values for key, values in observations.items()}
    return {"observation": observations}


def arrays_are_finite(values: Array) -> bool:
    """Return whether no number of an array, or of a dictionary of arrays, is NaN or infinite."""
    if isinstance(values, dict):
        return all(arrays_are_finite(v) for v in values.values())
    if values.dtype.kind != "f":
        return True
    # Σ x² is a quick test. If it overflows, large numbers may be the cause, so look at each one.
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())
