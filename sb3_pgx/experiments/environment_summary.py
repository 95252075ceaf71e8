"""Numbers of each algorithm in one environment. The report and the pictures only format them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.small_samples import seed_interval
from sb3_pgx.experiments.statistics import (
    Floats,
    Sample,
    Statistic,
    align_curves,
    interquartile_mean,
    mean,
    median_steps,
    steps_to_threshold,
)


@dataclass(frozen=True)
class Estimate:
    """
    A number with its 95 % interval over seeds.

    :param value: the number; NaN without a seed
    :param low: lower end; NaN if there is no interval, because there is one seed or because all seeds are equal
    :param high: upper end
    :param seeds: number of seeds
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0

    @classmethod
    def of(cls, value: float, interval: tuple[Floats | float, Floats | float], seeds: int) -> "Estimate":
        """Return the estimate. An interval of no width says nothing about other seeds and counts as none."""
        low, high = map(float, interval)
        return cls(float(value), low, high, seeds) if low < high else cls(float(value), seeds=seeds)


@dataclass(frozen=True)
class Band:
    """
    A line with its pointwise 95 % interval.

    :param x: ``[P]``
    :param center: ``[P]``
    :param low: NaN for one seed, ``[P]``
    :param high: NaN for one seed, ``[P]``
    :param runs: x and y of each run behind the line
    """

    x: Floats
    center: Floats
    low: Floats
    high: Floats
    runs: tuple[tuple[Sample, Sample], ...] = ()


@dataclass(frozen=True)
class EnvironmentSummary:
    """
    One algorithm in one environment, over its seeds.

    :param label: name of the algorithm
    :param source: where its hyperparameters came from
    :param n_finished: number of runs that did not fail
    :param mean: mean over seeds of each seed's mean final return
    :param interquartile_mean: interquartile mean over seeds of each seed's mean final return
    :param steps_to_threshold: median over seeds of the environment steps to the threshold; ``None`` if the median seed did
        not reach it, or if there is no threshold
    :param reached: number of seeds that reached the threshold; failed runs did not
    :param frames_per_second: mean over the finished runs; NaN if there is none
    :param curve: learning curve; ``None`` if there is no evaluation during training
    :param seconds: mean seconds of training of the finished runs; NaN if there is none
    :param errors: error messages of the failed runs, by seed
    """

    label: str
    source: str
    n_finished: int
    mean: Estimate
    interquartile_mean: Estimate
    steps_to_threshold: float | None
    reached: int
    frames_per_second: float
    curve: Band | None
    seconds: float
    errors: dict[int, str]


def summarize_environment(results: Sequence[RunResult], threshold: float | None) -> list[EnvironmentSummary]:
    """
    Summarise the runs of one environment.

    :param results: runs of any number of algorithms
    :param threshold: return that counts as solved, or ``None``
    :return: one summary per algorithm, in the order of their first runs
    """
    labels = dict.fromkeys(result.label for result in results)
    return [_summarize_algorithm([r for r in results if r.label == label], threshold) for label in labels]


def _summarize_algorithm(results: Sequence[RunResult], threshold: float | None) -> EnvironmentSummary:
    finished = [r for r in results if r.error is None]
    returns = [r.mean_return for r in finished]
    # A failed run has no evaluations, so it counts as never reaching the threshold.
    reached = [steps_to_threshold(r.curve_steps, r.curve_returns, threshold) for r in results if threshold is not None]
    return EnvironmentSummary(
        label=results[0].label,
        source=results[0].source,
        n_finished=len(finished),
        mean=_estimate(returns, mean),
        interquartile_mean=_estimate(returns, interquartile_mean),
        steps_to_threshold=median_steps(reached) if reached else None,
        reached=sum(steps is not None for steps in reached),
        frames_per_second=float(np.mean([r.frames_per_second for r in finished])) if finished else np.nan,
        seconds=float(np.mean([r.training_seconds for r in finished])) if finished else np.nan,
        curve=_curve([r for r in finished if r.curve_steps]),
        errors={r.seed: r.error for r in results if r.error is not None},
    )


def _estimate(values: Sequence[float], statistic: Statistic) -> Estimate:
    if not values:
        return Estimate(np.nan)
    return Estimate.of(float(statistic(np.array(values), axis=0)), seed_interval(values, statistic), len(values))


def _curve(results: Sequence[RunResult]) -> Band | None:
    if not results:
        return None
    steps, returns = align_curves([(r.curve_steps, r.curve_returns) for r in results])
    runs = tuple((r.curve_steps, r.curve_returns) for r in results)
    return Band(steps, returns.mean(axis=0), *seed_interval(returns), runs)
