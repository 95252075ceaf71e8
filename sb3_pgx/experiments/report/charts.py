"""Composes the charts of a comparison from the same numbers as the tables."""

from collections.abc import Callable

import numpy as np

from sb3_pgx.experiments.analysis import Aggregate, Analysis
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.environment_summary import Band, EnvironmentSummary, Estimate
from sb3_pgx.experiments.number_format import quantity
from sb3_pgx.experiments.report.explanations import chart_caption
from sb3_pgx.pages.charts import Chart, Dot, Dots, Level, Line, Lines, Panel
from sb3_pgx.pages.looks import Look


def compose_charts(analysis: Analysis, design: ComparisonDesign) -> dict[str, Chart]:
    """Return every chart for which there is data, by its name, which is also the file name of its picture."""
    panels: dict[str, Callable[[Analysis, ComparisonDesign], list[Panel]]] = {"curves": _curves}
    if analysis.aggregates:
        if len(design.env_ids) > 1:
            panels |= {"aggregates": _aggregates, "sample_efficiency": _sample_efficiency}
        panels |= {"profiles": _profiles, "wall_clock": _wall_clock}
    if analysis.pairs:
        panels["improvement"] = _improvement
    return {
        name: Chart(name, chart_caption(name, design), tuple(function(analysis, design))) for name, function in panels.items()
    }


def _curves(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    """Learning curves of each environment: mean over seeds, interval, every seed, and the threshold as a dashed line."""
    return [_environment_curves(env_id, summaries, analysis, design) for env_id, summaries in analysis.summaries.items()]


def _environment_curves(
    env_id: str, summaries: list[EnvironmentSummary], analysis: Analysis, design: ComparisonDesign
) -> Lines:
    lines = [_line(s.curve, s.label, analysis, design) for s in summaries if s.curve is not None]
    threshold = design.thresholds.get(env_id)
    levels = () if threshold is None else (Level(threshold, f"threshold {threshold:g}"),)
    y_title = f"return of {quantity(design.curve_episodes, 'episode')}"
    return Lines(env_id, "environment steps", y_title, tuple(lines), levels, x_end=design.timesteps)


def _aggregates(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    names = shown_aggregates(analysis, design)
    return [
        Dots(
            f"{name} (lower is better)" if name == "optimality gap" else name,
            "score",
            tuple(_dot(a.label, a.estimates[name], design, a.label) for a in analysis.aggregates),
        )
        for name in names
    ]


def shown_aggregates(analysis: Analysis, design: ComparisonDesign) -> list[str]:
    """Return the names of the aggregates that differ from each other by definition at this number of runs."""
    hidden = set()
    if max(len(a.seeds) for a in analysis.aggregates) * len(analysis.counted) < 4:
        hidden.add("interquartile mean")  # a quarter of three runs is no run, so it equals the mean
    if len(analysis.counted) < 3:
        hidden.add("median")  # of two environments, it equals the mean
    return [name for name in analysis.aggregates[0].estimates if name not in hidden]


def _profiles(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    lines = tuple(_line(a.profile, a.label, analysis, design) for a in analysis.aggregates)
    score = _score(design)
    y_title = f"fraction of runs with {score} > τ"
    return [Lines("Performance profiles", f"{score} τ", y_title, lines, y_range=(-0.02, 1.02))]


def _improvement(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    dots = tuple(_dot(f"{p.first} > {p.second}", p.probability, design, p.first) for p in analysis.pairs)
    x_title = "probability that a run of the first scores higher"
    return [Dots("Probability of improvement", x_title, dots, reference=0.5, x_range=(-0.03, 1.03))]


def _sample_efficiency(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    return [_over(analysis, design, "Sample efficiency", "environment steps per run", lambda a: a.by_steps, design.timesteps)]


def _wall_clock(analysis: Analysis, design: ComparisonDesign) -> list[Panel]:
    longest = max((float(a.by_seconds.x[-1]) for a in analysis.aggregates if a.by_seconds is not None), default=None)
    return [_over(analysis, design, "Wall-clock efficiency", "seconds of training per run", lambda a: a.by_seconds, longest)]


def _over(
    analysis: Analysis,
    design: ComparisonDesign,
    title: str,
    x_title: str,
    band: Callable[[Aggregate], Band | None],
    x_end: float | None,
) -> Lines:
    found = [(a.label, line) for a in analysis.aggregates if (line := band(a)) is not None]
    lines = tuple(_line(line, label, analysis, design) for label, line in found)
    return Lines(title, x_title, f"{_score(design)} (interquartile mean)", lines, x_end=x_end)


def _line(band: Band, label: str, analysis: Analysis, design: ComparisonDesign) -> Line:
    twin = analysis.identical.get(label)
    has_interval = np.isfinite(band.low).all()
    return Line(
        label if twin is None else f"{label} (identical to {twin})",
        band.x,
        band.center,
        _look(label, design),
        band.low if has_interval else (),
        band.high if has_interval else (),
        band.runs if len(band.runs) > 1 else (),
    )


def _dot(name: str, estimate: Estimate, design: ComparisonDesign, label: str) -> Dot:
    return Dot(name, estimate.value, estimate.low, estimate.high, _look(label, design))


def _look(label: str, design: ComparisonDesign) -> Look:
    """Return an algorithm's look, which is the same in every chart."""
    return Look(design.algorithms.index(label))


def _score(design: ComparisonDesign) -> str:
    return "score" if design.scored else "return"
