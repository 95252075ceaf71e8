"""Verdicts from confidence intervals. Point estimates do not count."""

from collections.abc import Iterable

from sb3_pgx.experiments.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE, Interval, difference

__all__ = [
    "BETTER",
    "EQUIVALENT",
    "NOT_REACHED",
    "REACHED",
    "UNDECIDED",
    "WORSE",
    "Interval",
    "at_least",
    "at_most",
    "difference",
    "least_favourable",
]

REACHED, NOT_REACHED = "reached", "not reached"
LEAST_FAVOURABLE_FIRST = (NOT_REACHED, WORSE, UNDECIDED, BETTER, EQUIVALENT, REACHED)


def at_least(interval: Interval, bound: float) -> str:
    """
    Judge whether a number reaches a bound.

    :param interval: confidence interval of the number; NaN if the sample gives no interval
    :param bound: smallest accepted value
    :return: reached if the whole interval is at or above the bound, not reached if it is below, else undecided
    """
    low, high = interval
    return REACHED if low >= bound else NOT_REACHED if high < bound else UNDECIDED


def at_most(interval: Interval, bound: float) -> str:
    """
    Judge whether a number stays within a bound.

    :param interval: confidence interval of the number
    :param bound: largest accepted value
    :return: reached if the whole interval is at or below the bound, not reached if it is above, else undecided
    """
    low, high = interval
    return at_least((-high, -low), -bound)


def least_favourable(verdicts: Iterable[str]) -> str:
    """Return the verdict on a claim with several numbers: the one that is least favourable to the claim."""
    return min(verdicts, key=LEAST_FAVOURABLE_FIRST.index)
