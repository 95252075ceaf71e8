"""Draws the pictures of a comparison from the same numbers as the tables."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_pgx.core.files import replacing
from sb3_pgx.experiments.analysis import Aggregate, Analysis
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.environment_summary import Band, Estimate
from sb3_pgx.experiments.number_format import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which is safe for colour-blind readers, without black and yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":")  # the next line style when the colours are used up
COLUMNS = 3


def draw_pictures(analysis: Analysis, design: ComparisonDesign) -> dict[str, "Figure"]:
    """Return every picture for which there is data, by its file name without the suffix."""
    pictures: dict[str, Callable[[Analysis, ComparisonDesign], Figure]] = {"curves": draw_curves}
    if analysis.aggregates:
        if len(design.env_ids) > 1:
            pictures |= {"aggregates": draw_aggregates, "sample_efficiency": draw_sample_efficiency}
        pictures |= {"profiles": draw_profiles, "wall_clock": draw_wall_clock}
    if analysis.improvements:
        pictures["improvement"] = draw_improvement
    return {name: function(analysis, design) for name, function in pictures.items()}


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the picture as PNG without changing matplotlib's process-wide state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)


def as_svg(figure: "Figure") -> str:
    """Return the picture as an SVG text."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue()


def draw_curves(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw the learning curves of each environment: mean over seeds, interval, and the threshold as a dashed line."""
    columns = min(COLUMNS, len(design.env_ids))
    rows = math.ceil(len(design.env_ids) / columns)
    figure = _figure(8 if columns == 1 else 4 * columns, 4.8 if columns == 1 else 3.4 * rows)
    for index, (env_id, summaries) in enumerate(analysis.summaries.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for summary in summaries:
            if summary.curve is not None:
                _draw_band(axes, summary.curve, summary.label, design)
        if env_id in design.thresholds:
            threshold = design.thresholds[env_id]
            label = f"threshold {threshold:g}" if columns == 1 else "threshold"
            axes.axhline(threshold, color="0.35", linestyle="--", linewidth=1, label=label, zorder=1)
        axes.set_xlim(0, design.timesteps)
        if index // columns == (len(design.env_ids) - 1 - index % columns) // columns:
            axes.set_xlabel("environment steps, all environments together" if columns == 1 else "environment steps")
        if index % columns == 0:
            axes.set_ylabel(f"return of {quantity(design.curve_episodes, 'episode')}, mean over seeds")
        _dress(axes, env_id, steps=True)
        _legend(axes, beside=index == columns - 1)
    return figure


def draw_aggregates(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw one panel per aggregate, with a dot per algorithm and a line for its interval."""
    names = list(analysis.aggregates[0].estimates)
    figure = _figure(2.7 * len(names) + 1, 0.9 + 0.42 * len(analysis.aggregates))
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        for place, aggregate in enumerate(analysis.aggregates):
            _draw_estimate(axes, place, aggregate.estimates[name], _look(aggregate.label, design)[0])
        _label_places(axes, [a.label for a in analysis.aggregates] if index == 0 else [""] * len(analysis.aggregates))
        axes.set_xlabel("score")
        _dress(axes, f"{name} {'(lower is better)' if name == 'optimality gap' else ''}")
    return figure


def draw_profiles(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw the fraction of the runs above each score."""
    figure, axes = _one()
    for aggregate in analysis.aggregates:
        _draw_band(axes, aggregate.profile, aggregate.label, design)
    axes.set_xlabel(f"{_score(design)} τ")
    axes.set_ylabel(f"fraction of runs with {_score(design)} > τ")
    axes.set_ylim(-0.02, 1.02)
    _dress(axes, "Performance profiles")
    _legend(axes)
    return figure


def draw_improvement(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw one dot per pair of algorithms, and a line for its interval."""
    figure = _figure(8, 1.3 + 0.36 * len(analysis.improvements))
    axes = figure.add_subplot()
    for place, improvement in enumerate(analysis.improvements):
        _draw_estimate(axes, place, improvement.probability, _look(improvement.first, design)[0])
    axes.axvline(0.5, color="0.35", linestyle="--", linewidth=1, zorder=1)
    axes.set_xlim(-0.03, 1.03)
    _label_places(axes, [f"{i.first} > {i.second}" for i in analysis.improvements])
    axes.set_xlabel("probability that a run of the first algorithm scores above a run of the second")
    _dress(axes, "Probability of improvement")
    return figure


def draw_sample_efficiency(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw the interquartile mean of the score over environment steps."""
    figure, axes = _one()
    _draw_lines(axes, analysis.aggregates, lambda aggregate: aggregate.by_steps, design)
    axes.set_xlim(0, design.timesteps)
    axes.set_xlabel("environment steps per run")
    axes.set_ylabel(f"interquartile mean of the {_score(design)}")
    _dress(axes, "Sample efficiency", steps=True)
    _legend(axes)
    return figure


def draw_wall_clock(analysis: Analysis, design: ComparisonDesign) -> "Figure":
    """Draw the interquartile mean of the score over seconds of training."""
    figure, axes = _one()
    _draw_lines(axes, analysis.aggregates, lambda aggregate: aggregate.by_seconds, design)
    at_a_time = "" if design.workers is None else f", {quantity(design.workers, 'run')} at a time"
    axes.set_xlabel(f"seconds of training per run, one thread each{at_a_time}")
    axes.set_ylabel(f"interquartile mean of the {_score(design)}")
    axes.set_xlim(left=0)
    _dress(axes, "Wall-clock efficiency")
    _legend(axes)
    return figure


def _draw_lines(
    axes: "Axes", aggregates: Sequence[Aggregate], line: Callable[[Aggregate], Band | None], design: ComparisonDesign
) -> None:
    for aggregate in aggregates:
        band = line(aggregate)
        if band is not None:
            _draw_band(axes, band, aggregate.label, design)


def _score(design: ComparisonDesign) -> str:
    return "score" if design.scored else "return"


def _look(label: str, design: ComparisonDesign) -> tuple[str, str]:
    """Return an algorithm's colour and line style, which are the same in every picture."""
    index = design.algorithms.index(label)
    return COLORS[index % len(COLORS)], LINES[index // len(COLORS) % len(LINES)]


def _draw_band(axes: "Axes", band: Band, label: str, design: ComparisonDesign) -> None:
    color, line = _look(label, design)
    axes.plot(band.x, band.center, color=color, linestyle=line, linewidth=1.8, label=label)
    if np.isfinite(band.low).all():
        axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.18, linewidth=0)


def _draw_estimate(axes: "Axes", place: int, estimate: Estimate, color: str) -> None:
    axes.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=6, alpha=0.35, solid_capstyle="butt")
    axes.plot([estimate.value], [place], color=color, marker="o", markersize=7)


def _label_places(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _one() -> "tuple[Figure, Axes]":
    figure = _figure(8, 4.2)
    return figure, figure.add_subplot()


def _dress(axes: "Axes", title: str, steps: bool = False) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(title, loc="left", fontsize=11)
    if steps:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: "Axes", beside: bool = True) -> None:
    if beside and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
