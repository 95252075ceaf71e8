"""Statistics over seeds: few numbers, heavy tails, so intervals by bootstrap and averages that outliers cannot move."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9_999
MAX_ELEMENTS = 10_000_000  # of resampled arrays at a time

Floats = NDArray[np.floating]
Sample = Floats | Sequence[float]


class Statistic(Protocol):
    """A number from a sample, along an axis."""

    def __call__(self, values: Floats, /, *, axis: int) -> Floats: ...


class StatisticOfGroups(Protocol):
    """A number from several samples, along the same axis of each."""

    def __call__(self, *groups: Sample, axis: int) -> Floats: ...


def mean(values: Floats, /, *, axis: int = 0) -> Floats:
    """Arithmetic mean along an axis."""
    return np.mean(values, axis=axis)


def interquartile_mean(values: Sample, /, *, axis: int = 0) -> Floats:
    """
    Mean of the middle half: the lowest and the highest quarter of the sample, rounded down to whole values, are left out
    (Agarwal et al., 2021). Of five values, those are one at each end.

    :param values: ``[S, ...]``
    :param axis: the axis of the sample
    """
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def interquartile_mean_difference(*groups: Sample, axis: int = 0) -> Floats:
    """Interquartile mean of the first of two groups minus that of the second."""
    first, second = groups
    return interquartile_mean(first, axis=axis) - interquartile_mean(second, axis=axis)


def bootstrap_interval(
    values_per_seed: Sequence[float] | Floats, statistic: Statistic = mean, confidence: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats]:
    """
    Percentile bootstrap interval over seeds (Efron, 1979): seeds are drawn with replacement :data:`RESAMPLES` times.

    :param values_per_seed: one value, or one array of values, for each seed: ``[S, ...]``
    :param statistic: what the interval is for
    :param confidence: probability that the interval is meant to cover, in (0, 1)
    :param seed: of the resampling, so that a report can be reproduced
    :return: lower and upper end, each ``[...]``; NaN for one seed, which says nothing about the spread
    :raises ValueError: no value
    """
    values = np.asarray(values_per_seed, dtype=float)
    if len(values) == 0:
        raise ValueError("a bootstrap interval needs at least one value")
    if len(values) == 1:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    return _bootstrap((values,), statistic, confidence, seed)


def bootstrap_interval_of_groups(
    groups: Sequence[Sample], statistic: StatisticOfGroups, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a number that several groups of seeds give together, such as a difference: each time,
    the seeds of every group are drawn with replacement, independently of the other groups.

    :param groups: one value for each seed, ``[S]``, where S may differ between groups
    :param statistic: what the interval is for
    :param confidence: probability that the interval is meant to cover, in (0, 1)
    :param seed: of the resampling, so that a report can be reproduced
    :return: lower and upper end; NaN where a group has one seed, which says nothing about its spread
    :raises ValueError: a group has no value
    """
    if not all(len(group) for group in groups):
        raise ValueError("a bootstrap interval needs at least one value in each group")
    if any(len(group) == 1 for group in groups):
        return np.nan, np.nan
    low, high = _bootstrap([np.asarray(group, dtype=float) for group in groups], statistic, confidence, seed)
    return float(low), float(high)


def stratified_interval(
    groups: Sequence[Floats],
    statistic: Callable[..., Floats],
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """
    Percentile bootstrap interval with the environments as strata (Agarwal et al., 2021): each time, the runs of every
    environment and every group are drawn with replacement, each on their own; the environments stay.

    :param groups: scores of one algorithm each, ``[S, E, ...]`` of S seeds in E environments; S may differ between them
    :param statistic: of as many arrays ``[..., S, E]``; gives ``[...]``
    :param confidence: probability that the interval is meant to cover, in (0, 1)
    :param seed: of the resampling, so that a report can be reproduced
    :param resamples: how often runs are drawn
    :return: lower and upper end, each of the statistic's shape; NaN where a group has one seed, which says nothing about its
        spread
    :raises ValueError: a group has no seed
    """
    if not all(len(group) for group in groups):
        raise ValueError("a bootstrap interval needs at least one value in each group")
    ends = np.cumsum([0, *(group.shape[1] for group in groups)])

    def of_strata(*strata: Floats, axis: int) -> Floats:  # the seeds are the last axis here, whatever they were before
        parts = [np.stack(strata[a:b], axis=-1) for a, b in pairwise(ends)]
        return statistic(*parts)

    strata = [group[:, env] for group in groups for env in range(group.shape[1])]
    if any(len(group) == 1 for group in groups):
        nothing = np.full(np.shape(of_strata(*(np.moveaxis(x, 0, -1) for x in strata), axis=-1)), np.nan)
        return nothing, nothing
    batch = max(1, MAX_ELEMENTS // sum(stratum.size for stratum in strata))
    return _bootstrap(strata, of_strata, confidence, seed, resamples, batch)


def _bootstrap(
    groups: Sequence[Floats],
    statistic: Statistic | StatisticOfGroups,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
    batch: int | None = None,
) -> tuple[Floats, Floats]:
    from scipy.stats import bootstrap

    interval = bootstrap(
        groups,
        statistic,
        axis=0,
        vectorized=True,
        n_resamples=resamples,
        batch=batch,
        confidence_level=confidence,
        method="percentile",
        random_state=seed,
    ).confidence_interval
    return interval.low, interval.high


def area_under_curve(steps: Sequence[int], returns: Sequence[float]) -> float:
    """
    Area under a learning curve by the trapezoidal rule, divided by the steps that it spans: its mean height.

    :param steps: environment steps at each evaluation, ascending, ``[P]``
    :param returns: mean return of each evaluation, ``[P]``
    :return: in units of return
    :raises ValueError: fewer than two evaluations
    """
    if len(steps) < 2:
        raise ValueError(f"a learning curve needs at least 2 evaluations to have an area, got {len(steps)}")
    heights = np.asarray(returns, dtype=float)
    return float(np.average((heights[1:] + heights[:-1]) / 2, weights=np.diff(steps)))


def steps_to_threshold(steps: Sequence[int], returns: Sequence[float], threshold: float) -> int | None:
    """
    :param steps: environment steps at each evaluation, ascending, ``[P]``
    :param returns: mean return of each evaluation, ``[P]``
    :param threshold: the return to reach
    :return: steps at the first evaluation that reached it, whatever came later; None if none did
    """
    return next((step for step, value in zip(steps, returns, strict=True) if value >= threshold), None)


def median_steps(steps_per_seed: Sequence[int | None]) -> float | None:
    """
    Median over all seeds, where a seed that never reached the threshold counts as later than any that did.

    :param steps_per_seed: steps to the threshold, None for never, ``[S]``
    :return: None if so few seeds reached it that the median is never
    """
    median = float(np.median([np.inf if steps is None else steps for steps in steps_per_seed]))
    return median if np.isfinite(median) else None


def align_curves(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[Floats, Floats]:
    """
    Learning curves of several seeds at the same steps. Evaluations of one algorithm mostly fall on the same steps; where
    they do not, curves are interpolated at the steps of the first one that all of them cover.

    :param curves: steps ``[P]`` and mean returns ``[P]`` of each seed, at least one evaluation each
    :return: steps ``[P']`` and returns ``[S, P']``
    """
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.array([step for step in curves[0][0] if start <= step <= end], dtype=float)
    return grid, np.stack([np.interp(grid, steps, returns) for steps, returns in curves])
