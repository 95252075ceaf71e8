"""Plot the metrics of a run with healthy ranges shaded, as PNG and as a self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import replacing, write_text
from sb3_pgx.core.optional_packages import PLOTS, require_extra
from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.metrics import METRICS
from sb3_pgx.diagnostics.progress_file import read_progress
from sb3_pgx.diagnostics.rules import Rule

COLUMNS = 4
HEALTHY, LINE = "#2ca02c", "#1f77b4"


def plot_folder(folder: Path, force: bool = False) -> list[Path]:
    """
    Plot the ``progress.csv`` of a run into the same folder.

    :param folder: folder to which the run logged
    :param force: replace earlier plots
    :return: paths of ``diagnostics.png`` and ``diagnostics.html``
    :raises ValueError: there is nothing to plot, or plots exist and ``force`` is false
    :raises ImportError: matplotlib or plotly is not installed
    """
    require_extra("plots", PLOTS)
    steps, series = read_progress(folder)
    parent = folder if folder.is_dir() else folder.parent
    if not metrics_to_plot(series):
        raise ValueError(f"{folder} holds no finite number to plot")
    png, html = (parent / f"diagnostics.{kind}" for kind in ("png", "html"))
    existing = [str(path) for path in (png, html) if path.exists()]
    if existing and not force:
        raise ValueError(f"{existing[0]} already exists; --force replaces it")
    plot_png(png, steps, series, healthy_ranges())
    plot_html(html, f"Metrics of {parent.resolve().name}", steps, series, healthy_ranges())
    return [png, html]


def healthy_ranges(rules: Sequence[Rule] = DEFAULT_RULES) -> dict[str, tuple[float, float]]:
    """Return the healthy range of each metric, from the first rule that has one."""
    ranges: dict[str, tuple[float, float]] = {}
    for rule in rules:
        if rule.healthy is not None:
            ranges.setdefault(rule.metric, rule.healthy)
    return ranges


def finite_points(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the coordinates of the finite values."""
    points = [(x, y) for x, y in zip(steps, values, strict=False) if math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def metrics_to_plot(series: Series) -> list[str]:
    """Return the metrics that have a finite value, in the order of :data:`~sb3_pgx.diagnostics.METRICS`."""
    return [name for name in METRICS if any(math.isfinite(x) for x in series.get(name, ()))]


def plot_png(path: Path, steps: Sequence[float], series: Series, ranges: Mapping[str, tuple[float, float]]) -> None:
    """
    Write a PNG with one small plot per metric.

    :param path: file to write
    :param steps: environment steps of each number
    :param series: numbers by metric
    :param ranges: range to shade by metric
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    names = metrics_to_plot(series)
    rows = math.ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.1 * rows), dpi=100)
    figure.subplots_adjust(0.05, 0.4 / (2.1 * rows), 0.99, 1 - 0.3 / (2.1 * rows), wspace=0.25, hspace=0.5)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        axes.plot(*finite_points(steps, series[name]), color=LINE, linewidth=1.2, marker="." if len(steps) < 40 else None)
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
        FigureCanvasAgg(figure).print_png(file)  # without changing matplotlib's global state


def plot_html(
    path: Path, title: str, steps: Sequence[float], series: Series, ranges: Mapping[str, tuple[float, float]]
) -> None:
    """
    Write an interactive HTML page with one plot per metric. The page needs no server and no network.

    :param path: file to write
    :param title: title of the page
    :param steps: environment steps of each number
    :param series: numbers by metric
    :param ranges: range to shade by metric
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = metrics_to_plot(series)
    rows = math.ceil(len(names) / COLUMNS)
    figure: Any = make_subplots(rows=rows, cols=COLUMNS, subplot_titles=names, vertical_spacing=0.35 / rows)
    for i, name in enumerate(names):
        place: dict[str, Any] = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        x, y = finite_points(steps, series[name])
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
