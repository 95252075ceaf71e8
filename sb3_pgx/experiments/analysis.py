"""Computes every number of a comparison's report and every line of its pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from sb3_pgx.experiments.aggregate_metrics import (
    AGGREGATES,
    SMALLEST,
    performance_profile,
    pooled_interquartile_mean,
    probability_of_improvement,
)
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.environment_summary import Band, EnvironmentSummary, Estimate, summarize_environment
from sb3_pgx.experiments.normalized_scores import RETURNS, Scale, complete_seeds, find_scale, score_matrix
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.small_samples import improvement_interval, stratified_seed_interval
from sb3_pgx.experiments.statistics import Floats, Sample
from sb3_pgx.experiments.verdicts import Verdict, judge

LINE_RESAMPLES = 2_000  # bootstrap resamples of a line, which has an interval at each of its points
PROFILE_POINTS, SECONDS_POINTS = 101, 50


@dataclass(frozen=True)
class Aggregate:
    """
    One algorithm over all environments, from the seeds that finished in every environment.

    :param label: name of the algorithm
    :param seeds: the seeds that finished in every environment
    :param estimates: one estimate per entry of :data:`~sb3_pgx.experiments.aggregate_metrics.AGGREGATES`, by its name
    :param profile: fraction of the runs that score above τ, over τ
    :param by_steps: interquartile mean of the score, over environment steps
    :param by_seconds: interquartile mean of the score, over seconds of training
    """

    label: str
    seeds: tuple[int, ...]
    estimates: dict[str, Estimate]
    profile: Band
    by_steps: Band | None
    by_seconds: Band | None


@dataclass(frozen=True)
class Pair:
    """
    Two algorithms.

    :param first: name of the first algorithm
    :param second: name of the second algorithm
    :param probability: probability that a run of the first scores above a run of the second
    :param verdict: whether the first is better, worse or equivalent
    """

    first: str
    second: str
    probability: Estimate
    verdict: Verdict


@dataclass(frozen=True)
class Analysis:
    """
    Every number of a comparison's report.

    :param summaries: one summary per algorithm, by environment
    :param scales: the returns that count as 0 and as 1, by environment
    :param counted: the environments in which some run finished; the others are left out of what follows
    :param aggregates: one per algorithm with at least one seed that finished in every environment
    :param pairs: one per pair of these algorithms
    :param identical: for an algorithm whose every evaluation equals that of an earlier one, seed by seed, the earlier one
    """

    summaries: dict[str, list[EnvironmentSummary]]
    scales: dict[str, Scale]
    counted: tuple[str, ...]
    aggregates: list[Aggregate]
    pairs: list[Pair]
    identical: dict[str, str]


def analyse(results: Sequence[RunResult], design: ComparisonDesign) -> Analysis:
    """
    Compute every number of the report.

    :param results: all runs of a comparison
    :param design: the settings that the runs share
    """
    in_env = {env_id: [r for r in results if r.env_id == env_id] for env_id in design.env_ids}
    scales = {env_id: _scale(runs, env_id, design) for env_id, runs in in_env.items()}
    counted = tuple(env_id for env_id, runs in in_env.items() if any(r.error is None for r in runs)) or design.env_ids
    used = {env_id: scales[env_id] for env_id in counted}
    of_label = {label: [r for r in results if r.label == label] for label in design.algorithms}
    scores = {label: matrix for label, runs in of_label.items() if len(matrix := score_matrix(runs, used))}
    identical = _find_identical(of_label)
    taus = _taus([*scores.values()], design.scored)
    return Analysis(
        summaries={env_id: summarize_environment(runs, design.thresholds.get(env_id)) for env_id, runs in in_env.items()},
        scales=scales,
        counted=counted,
        aggregates=[_aggregate(label, matrix, of_label[label], used, taus) for label, matrix in scores.items()],
        pairs=[_pair(a, b, scores, design, identical.get(b) == a) for a, b in combinations(scores, 2)],
        identical=identical,
    )


def _pair(first: str, second: str, scores: dict[str, Floats], design: ComparisonDesign, identical: bool) -> Pair:
    a, b = scores[first], scores[second]
    n_pairs = math.comb(len(scores), 2)
    probability = Estimate.of(float(probability_of_improvement(a, b)), improvement_interval(a, b), seeds=min(len(a), len(b)))
    return Pair(first, second, probability, judge(a, b, design.margin, n_pairs * max(1, len(design.looks)), identical))


def _find_identical(of_label: dict[str, list[RunResult]]) -> dict[str, str]:
    found: dict[str, str] = {}
    outcomes = {
        label: {(r.env_id, r.seed): (r.curve_steps, r.curve_returns, r.returns) for r in runs if r.error is None}
        for label, runs in of_label.items()
    }
    for a, b in combinations(outcomes, 2):
        if outcomes[a] and outcomes[a] == outcomes[b]:
            found.setdefault(b, a)
    return found


def _scale(results: Sequence[RunResult], env_id: str, design: ComparisonDesign) -> Scale:
    if not design.scored:
        return RETURNS
    returns = [r.mean_return for r in results if r.error is None]
    return find_scale(returns, design.normalize.get(env_id), design.random_returns.get(env_id), design.thresholds.get(env_id))


def _taus(scores: Sequence[Floats], scored: bool) -> Floats:
    """Return values of τ that span all scores, and at least [0, 1] if returns are normalised."""
    values = np.concatenate([*(matrix.ravel() for matrix in scores), [0.0, 1.0] if scored or not scores else []])
    margin = 0.02 * (values.max() - values.min()) or 1.0
    return np.linspace(values.min() - margin, values.max() + margin, PROFILE_POINTS)


def _aggregate(label: str, scores: Floats, results: Sequence[RunResult], scales: dict[str, Scale], taus: Floats) -> Aggregate:
    seeds = complete_seeds(results, [*scales])
    runs = {(r.seed, r.env_id): r for r in results}
    of_seeds = [[runs[seed, env_id] for env_id in scales] for seed in seeds]
    by_steps = by_seconds = None
    if all(len(run.curve_steps) > 0 for row in of_seeds for run in row):
        curves = [[(r.curve_steps, scales[r.env_id](r.curve_returns)) for r in row] for row in of_seeds]
        steps = [np.asarray(steps) for row in curves for steps, _ in row]
        start, end = max(x[0] for x in steps), min(x[-1] for x in steps)
        shared = np.array([x for x in steps[0] if start <= x <= end], dtype=float)
        if len(shared):  # empty if a tiny budget ends before a run with many parallel environments is first evaluated
            by_steps = _line(shared, curves)
        timed = [[(r.curve_seconds, scales[r.env_id](r.curve_returns)) for r in row] for row in of_seeds]
        if all(len(seconds) > 0 for row in timed for seconds, _ in row):
            by_seconds = _line(_seconds([seconds for row in timed for seconds, _ in row]), timed)
    return Aggregate(
        label=label,
        seeds=tuple(seeds),
        estimates={name: _estimate(scores, f, SMALLEST.get(name, -np.inf)) for name, f in AGGREGATES.items()},
        profile=_clipped(_band(taus, scores, partial(performance_profile, taus=taus))),
        by_steps=by_steps,
        by_seconds=by_seconds,
    )


def _clipped(band: Band) -> Band:
    """Return the band of a share, which is from 0 to 1."""
    return replace(band, low=np.clip(band.low, 0, 1), high=np.clip(band.high, 0, 1))


def _seconds(runs: Sequence[Sequence[float]]) -> Floats:
    """Return a grid from the first time at which all runs have been evaluated to the end of the longest run."""
    return np.linspace(max(seconds[0] for seconds in runs), max(seconds[-1] for seconds in runs), SECONDS_POINTS)


def _line(grid: Floats, curves: Sequence[Sequence[tuple[Sequence[float], Floats]]]) -> Band:
    """Return the interquartile mean over runs at each point of the grid. Curves are ``[S][E]``."""
    scores = np.array([[np.interp(grid, x, y) for x, y in row] for row in curves])  # [S, E, P]
    runs: tuple[tuple[Sample, Sample], ...] = tuple(run for row in curves for run in row) if scores.shape[1] == 1 else ()
    return replace(_band(grid, scores, pooled_interquartile_mean), runs=runs)


def _band(x: Floats, scores: Floats, statistic: Callable[[Floats], Floats]) -> Band:
    center = statistic(np.moveaxis(scores, (0, 1), (-2, -1)))
    return Band(x, center, *stratified_seed_interval([scores], statistic, resamples=LINE_RESAMPLES))


def _estimate(scores: Floats, statistic: Callable[..., Floats], smallest: float) -> Estimate:
    low, high = stratified_seed_interval([scores], statistic)
    return Estimate.of(float(statistic(scores)), (np.maximum(low, smallest), high), len(scores))
