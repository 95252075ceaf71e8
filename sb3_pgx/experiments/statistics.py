"""Statistics over seeds. Samples are small and heavy-tailed, hence bootstrap intervals and robust averages."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9_999
MAX_ELEMENTS = 10_000_000  # bounds the memory of the resampled arrays

Floats = NDArray[np.floating]
Sample = Floats | Sequence[float]


class Statistic(Protocol):
    """A statistic of one sample, along an axis."""

    def __call__(self, values: Floats, /, *, axis: int) -> Floats: ...


class StatisticOfGroups(Protocol):
    """A statistic of several samples, along the same axis of each."""

    def __call__(self, *groups: Sample, axis: int) -> Floats: ...


def mean(values: Floats, /, *, axis: int = 0) -> Floats:
    """Return the arithmetic mean along an axis."""
    return np.mean(values, axis=axis)


def interquartile_mean(values: Sample, /, *, axis: int = 0) -> Floats:
    """
    Return the mean of the middle half (Agarwal et al., 2021). The lowest and the highest quarter of the sample are left out,
    each rounded down to whole values: one value at each end for five values.

    :param values: the sample, ``[S, ...]``
    :param axis: the axis of the sample
    """
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def interquartile_mean_difference(*groups: Sample, axis: int = 0) -> Floats:
    """Return the interquartile mean of the first of two groups minus that of the second."""
    first, second = groups
    return interquartile_mean(first, axis=axis) - interquartile_mean(second, axis=axis)


def bootstrap_interval(
    values_per_seed: Sequence[float] | Floats, statistic: Statistic = mean, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """
    Return the percentile bootstrap interval over seeds (Efron, 1979): seeds are drawn with replacement :data:`RESAMPLES`
    times.

    :param values_per_seed: one value, or one array of values, per seed: ``[S, ...]``
    :param statistic: the statistic that the interval is for
    :param confidence: nominal coverage, in (0, 1)
    :return: lower and upper end, each ``[...]``; NaN for one seed, which says nothing about the spread
    :raises ValueError: there is no value
    """
    values = np.asarray(values_per_seed, dtype=float)
    if len(values) == 0:
        raise ValueError("a bootstrap interval needs at least one value")
    if len(values) == 1:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    return _bootstrap((values,), statistic, confidence)


def bootstrap_interval_of_groups(
    groups: Sequence[Sample], statistic: StatisticOfGroups, confidence: float = 0.95
) -> tuple[float, float]:
    """
    Return the percentile bootstrap interval of a statistic of several groups, such as a difference. The seeds of every group
    are drawn with replacement, independently of the other groups.

    :param groups: one value per seed, ``[S]``; S may differ between groups
    :param statistic: the statistic that the interval is for
    :param confidence: nominal coverage, in (0, 1)
    :return: lower and upper end; NaN if a group has one seed, which says nothing about its spread
    :raises ValueError: a group has no value
    """
    if not all(len(group) for group in groups):
        raise ValueError("a bootstrap interval needs at least one value in each group")
    if any(len(group) == 1 for group in groups):
        return np.nan, np.nan
    low, high = _bootstrap([np.asarray(group, dtype=float) for group in groups], statistic, confidence)
    return float(low), float(high)


def stratified_interval(
    groups: Sequence[Floats],
    statistic: Callable[..., Floats],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """
    Return the percentile bootstrap interval with the environments as strata (Agarwal et al., 2021). The runs of every
    environment and every group are drawn with replacement, independently of each other. The environments are fixed.

    :param groups: scores of one algorithm per group, ``[S, E, ...]``: S seeds in E environments; S may differ between groups
    :param statistic: maps one array ``[..., S, E]`` per group to ``[...]``
    :param confidence: nominal coverage, in (0, 1)
    :param resamples: number of bootstrap resamples
    :return: lower and upper end, each of the statistic's shape; NaN if a group has one seed, which says nothing about its
        spread
    :raises ValueError: a group has no seed
    """
    if not all(len(group) for group in groups):
        raise ValueError("a bootstrap interval needs at least one value in each group")
    ends = np.cumsum([0, *(group.shape[1] for group in groups)])

    def of_strata(*strata: Floats, axis: int) -> Floats:  # SciPy moves the axis of the seeds to the end
        parts = [np.stack(strata[a:b], axis=-1) for a, b in pairwise(ends)]
        return statistic(*parts)

    strata = [group[:, env] for group in groups for env in range(group.shape[1])]
    if any(len(group) == 1 for group in groups):
        nothing = np.full(np.shape(of_strata(*(np.moveaxis(x, 0, -1) for x in strata), axis=-1)), np.nan)
        return nothing, nothing
    batch = max(1, MAX_ELEMENTS // sum(stratum.size for stratum in strata))
    return _bootstrap(strata, of_strata, confidence, resamples, batch)


def _bootstrap(
    groups: Sequence[Floats],
    statistic: Statistic | StatisticOfGroups,
    confidence: float,
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
        random_state=0,  # so that a report is reproducible
    ).confidence_interval
    return interval.low, interval.high


def area_under_curve(steps: Sequence[int], returns: Sequence[float]) -> float:
    """
    Return the mean height of a learning curve: its area by the trapezoidal rule, divided by the steps that it spans.

    :param steps: environment steps at each evaluation, ascending, ``[P]``
    :param returns: mean return of each evaluation, ``[P]``
    :return: the mean height, in units of return
    :raises ValueError: there are fewer than two evaluations
    """
    if len(steps) < 2:
        raise ValueError(f"a learning curve needs at least 2 evaluations to have an area, got {len(steps)}")
    heights = np.asarray(returns, dtype=float)
    return float(np.average((heights[1:] + heights[:-1]) / 2, weights=np.diff(steps)))


def steps_to_threshold(steps: Sequence[int], returns: Sequence[float], threshold: float) -> int | None:
    """
    Return the environment steps at the first evaluation that reached the threshold, ``None`` if none did.

    :param steps: environment steps at each evaluation, ascending, ``[P]``
    :param returns: mean return of each evaluation, ``[P]``
    :param threshold: the return to reach
    """
    return next((step for step, value in zip(steps, returns, strict=True) if value >= threshold), None)


def median_steps(steps_per_seed: Sequence[int | None]) -> float | None:
    """
    Return the median over all seeds. A seed that never reached the threshold counts as later than any that did.

    :param steps_per_seed: steps to the threshold, ``None`` for never, ``[S]``
    :return: the median; ``None`` if the median seed never reached the threshold
    """
    median = float(np.median([np.inf if steps is None else steps for steps in steps_per_seed]))
    return median if np.isfinite(median) else None


def align_curves(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[Floats, Floats]:
    """
    Return the learning curves of several seeds at the same steps. Evaluations of one algorithm usually fall on the same steps.
    If they do not, the curves are interpolated at those steps of the first curve that all of them cover.

    :param curves: steps ``[P]`` and mean returns ``[P]`` per seed, with at least one evaluation each
    :return: steps ``[P']`` and returns ``[S, P']``
    """
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.array([step for step in curves[0][0] if start <= step <= end], dtype=float)
    return grid, np.stack([np.interp(grid, steps, returns) for steps, returns in curves])
