"""Verdicts from confidence intervals. Point estimates do not count."""

from collections.abc import Iterable

Interval = tuple[float, float]

REACHED, NOT_REACHED = "reached", "not reached"
BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent"
UNDECIDED = "undecided"
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


def difference(interval: Interval, tost_interval: Interval, margin: float) -> str:
    """
    Judge a difference, ours minus theirs.

    :param interval: two-sided confidence interval of the difference, of level 1 − α
    :param tost_interval: interval of level 1 − 2α; it lies within the margin exactly if both one-sided tests of level α
        reject (two one-sided tests; Schuirmann, 1987)
    :param margin: largest difference that counts as equivalent; 0 to ask only which side is better
    :return: equivalent if ``tost_interval`` lies within the margin; else better or worse if ``interval`` lies wholly above or
        below 0; else undecided
    """
    if -margin < tost_interval[0] and tost_interval[1] < margin:
        return EQUIVALENT
    low, high = interval
    return BETTER if low > 0 else WORSE if high < 0 else UNDECIDED


def least_favourable(verdicts: Iterable[str]) -> str:
    """Return the verdict on a claim with several numbers: the one that is least favourable to the claim."""
    return min(verdicts, key=LEAST_FAVOURABLE_FIRST.index)
