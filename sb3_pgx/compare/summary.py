"""What a comparison says about each algorithm, as numbers: report and pictures only write it down."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pgx.compare.runs import RunResult
from sb3_pgx.compare.statistics import Floats, align_curves, bootstrap_interval, median_steps, steps_to_threshold


@dataclass(frozen=True)
class Curve:
    """Mean return over seeds at each number of steps, with its interval (NaN for one seed), each ``[P]``."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Summary:
    """
    One algorithm over its seeds. ``final_return`` is the mean over seeds of each seed's mean return, NaN if no run
    finished; ``interval`` is its 95 % bootstrap interval; ``steps_to_threshold`` is the median over seeds, None for never,
    and ``reached`` counts the seeds that reached it, which a failed run never did; failed runs are in ``errors`` by seed.
    """

    label: str
    source: str
    n_finished: int
    final_return: float
    interval: tuple[float, float]
    steps_to_threshold: float | None
    reached: int
    frames_per_second: float
    curve: Curve | None
    errors: dict[int, str]


def summarize(results: Sequence[RunResult], threshold: float | None) -> list[Summary]:
    """
    :param results: runs of any number of algorithms in one environment
    :param threshold: return that counts as solved, or None
    :return: one summary for each algorithm, in the order of their first runs
    """
    labels = dict.fromkeys(result.label for result in results)
    return [_summarize_one([r for r in results if r.label == label], threshold) for label in labels]


def _summarize_one(results: Sequence[RunResult], threshold: float | None) -> Summary:
    finished = [r for r in results if r.error is None]
    returns = [r.mean_return for r in finished]
    low, high = bootstrap_interval(returns) if finished else (np.nan, np.nan)
    # A run that failed has no evaluations, and has never reached it.
    reached = [steps_to_threshold(r.curve_steps, r.curve_returns, threshold) for r in results if threshold is not None]
    return Summary(
        label=results[0].label,
        source=results[0].source,
        n_finished=len(finished),
        final_return=float(np.mean(returns)) if finished else np.nan,
        interval=(float(low), float(high)),
        steps_to_threshold=median_steps(reached) if reached else None,
        reached=sum(steps is not None for steps in reached),
        frames_per_second=float(np.mean([r.frames_per_second for r in finished])) if finished else np.nan,
        curve=_curve([r for r in finished if r.curve_steps]),
        errors={r.seed: r.error for r in results if r.error is not None},
    )


def _curve(results: Sequence[RunResult]) -> Curve | None:
    if not results:
        return None
    steps, returns = align_curves([(r.curve_steps, r.curve_returns) for r in results])
    low, high = bootstrap_interval(returns)
    return Curve(steps, returns.mean(axis=0), low, high)
