"""
Coefficients: a number, a function of the remaining progress, or a string that describes such a function:

    "<number>"                                  a constant (YAML reads 3e-4 as a string)
    "lin_<start>", "lin_<start>_<end>"          linear, to 0 unless an end is given, as in rl_zoo3
    "cos_<start>", "cos_<start>_<end>"          :class:`Cosine`, to 0 unless an end is given
    "exp_<start>_<end>"                         :class:`Exponential`
    "piecewise_<done>:<value>_<done>:<value>…"  :class:`Piecewise`, such as ``"piecewise_0:0.01_0.5:0.001_1:0"``

Numbers are written as in Python (``0.01``, ``1e-3``). The class for a linear schedule is SB3's ``LinearSchedule``.

The algorithm's attribute keeps what the user gave, so that it can be read, saved and replaced at any time. There are two
exceptions, because SB3 could not load a string: ``learning_rate`` is saved as a schedule, and PPO's clip ranges become
schedules at once. A ``lin`` schedule is SB3's class. ``cos``, ``exp`` and ``piecewise`` are classes of this package, so SB3
can load such a model only if this package is installed.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_pgx.core.errors import raised_in

MAX_FLOAT32 = float(np.finfo(np.float32).max)
# Largest values, with the reason. Adam moves each parameter by about the learning rate: two layers with weights this large
# give values whose square overflows float32.
MOST = {
    **dict.fromkeys(
        ("learning_rate", "critic_learning_rate"), (1e10, "a larger step makes the numbers of a network overflow")
    ),
    **dict.fromkeys(("clip_range", "clip_range_vf"), (MAX_FLOAT32, "no number in float32 is larger")),
}

Coefficient = float | str | Schedule

FORMS = (
    'give a number, a function, or a string such as "0.01", "lin_0.01", "lin_0.01_0.001", "cos_0.01_0.001", '
    '"exp_0.01_0.0001" or "piecewise_0:0.01_0.5:0.001_1:0"'
)


def as_schedule(value: Coefficient, name: str) -> FloatSchedule:
    """
    Return a coefficient as a schedule.

    :param value: a number, a function from remaining progress (1 at the start, 0 at the end) to a number, or a string as
        described in this module's docstring
    :param name: name of the coefficient, for the error
    :return: function from remaining progress to a float
    :raises ValueError: the value is none of these
    """
    if isinstance(value, str):
        try:
            value = _parse(value)
        except ValueError as error:
            raise ValueError(f'{name}="{value}" is not a schedule: {error}; {FORMS}') from None
    if callable(value):
        return FloatSchedule(value)
    try:
        number = None if isinstance(value, bool | np.bool_) else float(value)
    except (TypeError, ValueError, RuntimeError):  # raised for anything that is not a single number
        number = None
    if number is None:
        raise ValueError(f"{name}={value!r} is not a coefficient: {FORMS}")
    return FloatSchedule(number)


def evaluate_coefficient(value: Coefficient, progress_remaining: float, name: str) -> float:
    """
    Return the current value of a coefficient.

    :param value: coefficient, as :func:`as_schedule` takes it
    :param progress_remaining: 1 at the start of training, 0 at its end
    :param name: name of the coefficient, for the error
    :return: finite number >= 0
    :raises ValueError: the schedule returned a negative or non-finite number
    """
    try:
        result = value if type(value) is float else as_schedule(value, name)(progress_remaining)
    except (TypeError, ValueError) as error:
        if not raised_in(error, FloatSchedule.__module__):
            raise  # raised by the user's function
        raise ValueError(
            f"{name} at remaining progress {progress_remaining:.3f} is not a number ({error}): its schedule must return one"
        ) from error
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"{name} is {result} at remaining progress {progress_remaining:.3f}; it must be finite and >= 0")
    most, why = MOST.get(name, (math.inf, ""))
    if result > most:
        raise ValueError(f"{name} is {result}, and must be at most {most:.3g}: {why}")
    return result


@dataclass(frozen=True)
class Cosine:
    """
    Cosine schedule (Loshchilov & Hutter, 2017, eq. 5, without restarts), where p is the progress from 0 to 1:

        end + (start − end) (1 + cos π p) / 2

    :param start: value at the start of training, finite and >= 0
    :param end: value at the end of training, finite and >= 0
    :raises ValueError: a value is out of range
    """

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_values("Cosine", start=self.start, end=self.end)

    def __call__(self, progress_remaining: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _done(progress_remaining))) / 2


@dataclass(frozen=True)
class Exponential:
    """
    Exponential schedule, which falls by the same factor in equal times, where p is the progress from 0 to 1:

        start^(1 − p) · end^p

    :param start: value at the start of training, finite and positive
    :param end: value at the end of training, finite and positive
    :raises ValueError: a value is out of range
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        _check_values("Exponential", start=self.start, end=self.end)
        if self.start == 0 or self.end == 0:
            raise ValueError(f"{self}: an exponential never reaches 0; use a small positive number, or lin or cos")

    def __call__(self, progress_remaining: float) -> float:
        done = _done(progress_remaining)
        return self.start ** (1 - done) * self.end**done


@dataclass(frozen=True)
class Piecewise:
    """
    Piecewise linear schedule between given points.

    :param points: pairs (progress, value); progress rises strictly from 0 to 1, values are finite and >= 0
    :raises ValueError: a value is out of range, or progress does not rise from 0 to 1
    """

    points: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        try:
            points = tuple((float(done), float(value)) for done, value in self.points)
        except (TypeError, ValueError):
            raise ValueError(f"{self}: each point must be a pair of numbers, (progress done, value)") from None
        object.__setattr__(self, "points", points)
        _check_values("Piecewise", **{f"value {i}": value for i, (_, value) in enumerate(points)})
        progress = [done for done, _ in points]
        if progress[:1] != [0.0] or progress[-1:] != [1.0]:
            raise ValueError(f"Piecewise: progress is {progress}; it must start at 0 and end at 1, to cover all of training")
        if not all(a < b for a, b in pairwise(progress)):
            raise ValueError(f"Piecewise: progress is {progress}; it must rise from each point to the next")

    def __call__(self, progress_remaining: float) -> float:
        done, values = np.array(self.points).T
        return float(np.interp(_done(progress_remaining), done, values))


def _parse(text: str) -> Schedule:
    if "_" not in text:  # Python allows underscores in numbers; here they separate parts
        with suppress(ValueError):
            return ConstantSchedule(float(text))
    kind, *parts = text.split("_")
    if kind == "piecewise":
        return Piecewise([(float(done), float(value)) for done, _, value in (part.partition(":") for part in parts)])
    if kind not in ("lin", "cos", "exp"):
        raise ValueError(f"{kind!r} is not a kind of schedule")
    numbers = [float(part) for part in parts]
    if kind != "exp" and len(numbers) == 1:
        numbers.append(0.0)
    if len(numbers) != 2:
        raise ValueError(f"{kind} takes {'a start and an end' if kind == 'exp' else 'a start, or a start and an end'}")
    start, end = numbers
    if kind == "lin":
        _check_values("lin", start=start, end=end)
        return LinearSchedule(start, end, end_fraction=1.0)
    return Cosine(start, end) if kind == "cos" else Exponential(start, end)


def _check_values(where: str, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{where}: {name} is {value}; it must be finite and >= 0")


def _done(progress_remaining: float) -> float:
    """Return the progress, from 0 to 1. What remains may be negative, because SB3's last rollout overshoots."""
    return min(max(1.0 - progress_remaining, 0.0), 1.0)
