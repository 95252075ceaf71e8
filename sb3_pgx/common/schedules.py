"""
Coefficients that may be a number, a function of the remaining progress, or a string such as ``"lin_0.01"``.

The algorithm's attribute keeps what the user gave, so that it can be read, saved and replaced at any time.
"""

import math

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

Coefficient = float | str | Schedule


def as_schedule(value: Coefficient, name: str) -> FloatSchedule:
    """
    The schedule that a coefficient stands for.

    :param value: a number, a function from remaining progress (1 at the start, 0 at the end) to a number, or
        ``"lin_<x>"``, which falls linearly from x to 0, as in rl_zoo3
    :param name: the coefficient's name, for the error
    :return: function from remaining progress to a float
    :raises ValueError: anything else
    """
    if isinstance(value, str):
        kind, _, start = value.partition("_")
        try:
            if kind != "lin":
                raise ValueError(kind)
            value = LinearSchedule(float(start), 0.0, 1.0)
        except ValueError:
            raise ValueError(f'{name}="{value}" is not a schedule: give a number, a function, or "lin_<number>"') from None
    if not callable(value) and (isinstance(value, bool) or not hasattr(value, "__float__")):
        raise ValueError(f'{name}={value!r} is not a coefficient: give a number, a function, or "lin_<number>"')
    return FloatSchedule(value if callable(value) else float(value))


def evaluate_coefficient(value: Coefficient, progress_remaining: float, name: str) -> float:
    """
    The coefficient's value now.

    :param value: see :func:`as_schedule`
    :param progress_remaining: 1 at the start of training, 0 at its end
    :param name: the coefficient's name, for the error
    :return: finite, not negative
    :raises ValueError: the schedule returned a negative or non-finite number
    """
    result = as_schedule(value, name)(progress_remaining)
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"{name} is {result} at remaining progress {progress_remaining:.3f}; it must be finite and >= 0")
    return result
