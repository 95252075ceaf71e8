"""Which of two algorithms is better: verdicts that follow from confidence intervals, never from point estimates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pgx.experiments.small_samples import mean_difference
from sb3_pgx.experiments.statistics import Floats

Interval = tuple[float, float]

BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
LEVEL = 0.05  # probability of at least one wrong verdict among all pairs and looks of a report


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


@dataclass(frozen=True)
class Verdict:
    """
    The verdict on two algorithms.

    :param verdict: of the first algorithm: better, worse, equivalent or undecided
    :param difference: mean of the first algorithm minus mean of the second; NaN if there is no common seed
    :param interval: Welch's interval of level 1 − ``level``
    :param tost_interval: Welch's interval of level 1 − 2 ``level``, which must lie within the margin to be equivalent
    :param level: α, the probability of a wrong verdict on this pair at this look
    :param reason: why there is no interval, or why the intervals do not decide; empty otherwise
    """

    verdict: str
    difference: float
    interval: Interval
    tost_interval: Interval
    level: float
    reason: str = ""


def judge(first: Floats, second: Floats, margin: float, comparisons: int, identical: bool = False) -> Verdict:
    """
    Compare two algorithms by the difference of their means, with Welch's t-test and two one-sided t-tests.

    :param first: scores of the first algorithm, ``[S₁, E]``
    :param second: scores of the second algorithm, ``[S₂, E]``
    :param margin: largest difference that counts as equivalent; 0 to ask only which one is better
    :param comparisons: number of pairs times number of looks, by which α is divided (Bonferroni): at most :data:`LEVEL` of all
        reports contain a wrong verdict, however often one looks
    :param identical: whether every run of the first equals a run of the second in all evaluations
    """
    level = LEVEL / comparisons
    nothing = (-np.inf, np.inf)
    if identical:
        return Verdict(EQUIVALENT, 0.0, (0.0, 0.0), (0.0, 0.0), level, "every run is identical, seed by seed")
    if min(len(first), len(second)) < 2:
        return Verdict(UNDECIDED, float(first.mean() - second.mean()), nothing, nothing, level, "one seed has no spread")
    found = mean_difference(first, second)
    interval, tost = found.interval(level), found.interval(2 * level)
    verdict = difference(interval, tost, margin)
    reason = "" if np.isfinite(interval[0]) else "no seed differs from another, so there is no error to test with"
    return Verdict(verdict, found.value, interval, tost, level, reason)


def are_decided(verdicts: Sequence[Verdict]) -> bool:
    """Return whether every verdict is final, so that no more seeds are needed."""
    return all(v.verdict != UNDECIDED for v in verdicts)
