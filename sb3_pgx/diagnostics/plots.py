"""Pictures of what was measured over a training, healthy ranges shaded: PNG, and HTML that needs no server."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import replacing, write_text
from sb3_pgx.core.optional_packages import PLOTS, require_extra
from sb3_pgx.diagnostics.conditions import Rule, Series
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.metrics import METRICS
from sb3_pgx.diagnostics.progress_file import read_progress

COLUMNS = 4
HEALTHY, LINE = "#2ca02c", "#1f77b4"


def plot_folder(folder: Path, force: bool = False) -> list[Path]:
    """
    Draw a run's ``progress.csv`` beside it.

    :param folder: that the run logged to
    :param force: replace earlier pictures
    :return: ``diagnostics.png`` and ``diagnostics.html``
    :raises ValueError: there is nothing to draw, or there are pictures already
    :raises ImportError: matplotlib or plotly is not installed
    """
    require_extra("pictures", PLOTS)
    steps, series = read_progress(folder)
    parent = folder if folder.is_dir() else folder.parent
    if not shown(series):
        raise ValueError(f"{folder} holds no number that can be drawn")
    png, html = (parent / f"diagnostics.{kind}" for kind in ("png", "html"))
    there = [str(path) for path in (png, html) if path.exists()]
    if there and not force:
        raise ValueError(f"{there[0]} exists already; --force replaces it")
    save_png(png, steps, series, healthy_ranges())
    save_html(html, f"What {parent.resolve().name} logged", steps, series, healthy_ranges())
    return [png, html]


def healthy_ranges(rules: Sequence[Rule] = DEFAULT_RULES) -> dict[str, tuple[float, float]]:
    """By metric; the first rule that has one decides."""
    ranges: dict[str, tuple[float, float]] = {}
    for rule in rules:
        if rule.healthy is not None:
            ranges.setdefault(rule.metric, rule.healthy)
    return ranges


def known_points(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where there is a number, and which."""
    points = [(x, y) for x, y in zip(steps, values, strict=False) if math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def shown(series: Series) -> list[str]:
    """The metrics of which there is something to see, in the catalogue's order."""
    return [name for name in METRICS if any(math.isfinite(x) for x in series.get(name, ()))]


def save_png(path: Path, steps: Sequence[float], series: Series, ranges: Mapping[str, tuple[float, float]]) -> None:
    """
    One small picture a metric.

    :param path: file to write
    :param steps: environment steps of each number
    :param series: by metric
    :param ranges: shaded, by metric
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    names = shown(series)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.1 * rows), dpi=100)
    figure.subplots_adjust(0.05, 0.4 / (2.1 * rows), 0.99, 1 - 0.3 / (2.1 * rows), wspace=0.25, hspace=0.5)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        axes.plot(*known_points(steps, series[name]), color=LINE, linewidth=1.2, marker="." if len(steps) < 40 else None)
        if name in ranges:
            bounds = axes.get_ylim()
            axes.axhspan(*ranges[name], color=HEALTHY, alpha=0.15, linewidth=0)
            axes.set_ylim(bounds)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)  # without touching matplotlib's process-wide state


def save_html(
    path: Path, title: str, steps: Sequence[float], series: Series, ranges: Mapping[str, tuple[float, float]]
) -> None:
    """
    The same as one page, to zoom into and to point at; it holds all that it needs.

    :param path: file to write
    :param title: of the page
    :param steps: environment steps of each number
    :param series: by metric
    :param ranges: shaded, by metric
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = shown(series)
    rows = -(-len(names) // COLUMNS)
    figure: Any = make_subplots(rows=rows, cols=COLUMNS, subplot_titles=names, vertical_spacing=0.35 / rows)
    for i, name in enumerate(names):
        place: dict[str, Any] = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        x, y = known_points(steps, series[name])
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines+markers", line_color=LINE, marker_size=4), **place)
        if name in ranges:
            low, high = ranges[name]
            figure.add_hrect(y0=low, y1=high, fillcolor=HEALTHY, opacity=0.15, line_width=0, **place)
            margin = 0.05 * (max(y) - min(y)) or 0.05 * abs(y[0]) or 0.05
            figure.update_yaxes(range=[min(y) - margin, max(y) + margin], **place)
    for annotation in figure.layout.annotations[: len(names)]:
        annotation.update(hovertext=METRICS[annotation.text], font_size=12)
    figure.update_layout(title=title, height=230 * rows + 100, showlegend=False, template="plotly_white")
    write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
