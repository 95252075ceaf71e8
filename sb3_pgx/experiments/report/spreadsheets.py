"""Writes the numbers of a comparison as CSV files, for people who draw their own pictures."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.analysis import Analysis
from sb3_pgx.experiments.environment_summary import Estimate
from sb3_pgx.experiments.runs import RunResult

RUNS = (
    "environment",
    "algorithm",
    "seed",
    "steps",
    "mean_return",
    "score",
    "training_seconds",
    "frames_per_second",
    "error",
)
CURVES = ("environment", "algorithm", "seed", "steps", "seconds", "mean_return", "score")
SUMMARY = ("environment", "algorithm", "statistic", "value", "low", "high")
ALL = "all"


def save_spreadsheets(analysis: Analysis, results: Sequence[RunResult], folder: Path) -> None:
    """Write ``runs.csv`` (one row per run), ``curves.csv`` (one per evaluation) and ``summary.csv`` (one per estimate)."""
    _save(folder / "runs.csv", RUNS, (_run(result, analysis) for result in results))
    _save(folder / "curves.csv", CURVES, (row for result in results for row in _curve(result, analysis)))
    _save(folder / "summary.csv", SUMMARY, _summary(analysis))


def _save(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def _run(r: RunResult, analysis: Analysis) -> tuple[Any, ...]:
    if r.error is not None:
        return (r.env_id, r.label, r.seed, r.steps, "", "", "", "", r.error)
    score = float(analysis.scales[r.env_id](r.mean_return))
    return (r.env_id, r.label, r.seed, r.steps, r.mean_return, score, r.training_seconds, r.frames_per_second, "")


def _curve(r: RunResult, analysis: Analysis) -> Iterable[tuple[Any, ...]]:
    scores = analysis.scales[r.env_id](r.curve_returns)
    seconds: Sequence[Any] = r.curve_seconds or [""] * len(r.curve_steps)
    for step, second, mean_return, score in zip(r.curve_steps, seconds, r.curve_returns, scores, strict=True):
        yield r.env_id, r.label, r.seed, step, second, mean_return, float(score)


def _summary(analysis: Analysis) -> Iterable[tuple[Any, ...]]:
    for env_id, summaries in analysis.summaries.items():
        for s in summaries:
            yield env_id, s.label, "mean return", *_numbers(s.mean)
            yield env_id, s.label, "interquartile mean of return", *_numbers(s.interquartile_mean)
            yield (
                env_id,
                s.label,
                "median steps to threshold",
                "" if s.steps_to_threshold is None else s.steps_to_threshold,
                "",
                "",
            )
            yield env_id, s.label, "frames per second", "" if math.isnan(s.frames_per_second) else s.frames_per_second, "", ""
    for aggregate in analysis.aggregates:
        for name, estimate in aggregate.estimates.items():
            yield ALL, aggregate.label, f"{name} of score", *_numbers(estimate)
    for pair in analysis.pairs:
        yield ALL, pair.first, f"probability of improvement over {pair.second}", *_numbers(pair.probability)
        v = pair.verdict
        yield ALL, pair.first, f"difference from {pair.second}: {v.verdict}", v.difference, *map(_finite, v.interval)


def _numbers(estimate: Estimate) -> tuple[Any, ...]:
    return tuple(map(_finite, (estimate.value, estimate.low, estimate.high)))


def _finite(x: float) -> float | str:
    return x if math.isfinite(x) else ""
