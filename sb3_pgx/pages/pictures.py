"""Draws charts as PNG files with matplotlib."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_pgx.core.files import replacing
from sb3_pgx.pages.charts import Chart, Dots, Lines, Panel, Scatter, finite
from sb3_pgx.pages.looks import ALARM, COLORS, HEALTHY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
FITTED = 6  # most panels whose margins are fitted to their texts, which takes long
MANY_POINTS = 40  # lines with more points have no markers


def save_picture(chart: Chart, path: Path, columns: int = COLUMNS) -> None:
    """
    Write a chart as PNG without changing matplotlib's process-wide state.

    :param chart: the chart
    :param path: file to write; replaced if it exists
    :param columns: most panels side by side
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(chart, columns)
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)


def draw(chart: Chart, columns: int = COLUMNS) -> "Figure":
    """Return the chart as a figure of matplotlib, with one pair of axes per panel."""
    from matplotlib.figure import Figure

    columns = min(columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    heights = [max(_height(panel) for panel in chart.panels[i * columns : (i + 1) * columns]) for i in range(rows)]
    width = 8.0 if columns == 1 else 4.4 * columns
    figure = Figure(figsize=(width, sum(heights)), dpi=130, layout="constrained" if len(chart.panels) <= FITTED else None)
    if len(chart.panels) > FITTED:
        figure.subplots_adjust(0.04, 0.5 / sum(heights), 0.99, 1 - 0.3 / sum(heights), wspace=0.25, hspace=0.4)
    grid = figure.add_gridspec(rows, columns, height_ratios=heights)
    for i, panel in enumerate(chart.panels):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        if isinstance(panel, Dots):
            _draw_dots(axes, panel)
        elif isinstance(panel, Lines):
            _draw_lines(axes, panel)
        else:
            _draw_scatter(axes, panel)
        axes.set_title(
            panel.title,
            loc="left",
            fontsize=10.5 if len(chart.panels) <= FITTED else 8,
            color=ALARM if getattr(panel, "marked", False) else "black",
        )
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def _height(panel: Panel) -> float:
    return 1.0 + 0.36 * len(panel.dots) if isinstance(panel, Dots) else 3.4


def _draw_lines(axes: "Axes", panel: Lines) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    thousands = EngFormatter(sep="")  # which would write 0.5 as 500m
    for line in panel.lines:
        color, marker = line.look.color, line.look.marker[1] if len(line.x) <= MANY_POINTS else None
        dashes = (0, line.look.dash) if line.look.dash else "-"
        for x, y in line.runs:
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.45, label="_")
        if len(line.low):
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.16, linewidth=0)
        style = {"linestyle": dashes, "marker": marker, "markersize": 4, "linewidth": 1.8}
        axes.plot(*finite(line.x, line.y), color=color, label=line.name, **style)  # type: ignore[arg-type]
    if panel.log_y:
        axes.set_yscale("log")
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    for level in panel.levels:
        color = ALARM if level.alarm else "0.35"
        axes.axhline(level.value, color=color, linestyle=":" if level.alarm else "--", linewidth=1.2, label="_", zorder=1)
        axes.annotate(
            level.name,
            (0.01, level.value),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="bottom",
            fontsize=7,
            color=color,
        )
    if panel.healthy is not None:
        bounds = axes.get_ylim()
        axes.axhspan(*panel.healthy, color=HEALTHY, alpha=0.15, linewidth=0)
        axes.set_ylim(bounds)
    if panel.x_end is not None:
        axes.set_xlim(0, panel.x_end)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x) if abs(x) >= 1000 else f"{x:g}"))
    if panel.counts_few:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(panel.x_title, fontsize=8.5)
    axes.set_ylabel(panel.y_title, fontsize=8.5)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize=8)


def _draw_dots(axes: "Axes", panel: Dots) -> None:
    for place, dot in enumerate(panel.dots):
        color, known = dot.look.color, math.isfinite(dot.low)
        if known:
            axes.plot([dot.low, dot.high], [place, place], color=color, linewidth=6, alpha=0.35, solid_capstyle="butt")
        style = {"marker": dot.look.marker[1], "markersize": 7, "markerfacecolor": color if known else "none"}
        axes.plot([dot.value], [place], color=color, **style)  # type: ignore[arg-type]
    if panel.reference is not None:
        axes.axvline(panel.reference, color="0.35", linestyle="--", linewidth=1, zorder=1)
    if panel.x_range is not None:
        axes.set_xlim(*panel.x_range)
    axes.set_yticks(range(len(panel.dots)), [dot.name for dot in panel.dots])
    axes.set_ylim(len(panel.dots) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(panel.x_title, fontsize=8.5)


def _draw_scatter(axes: "Axes", panel: Scatter) -> None:
    axes.plot(panel.x, panel.y, linestyle="", marker="o", markersize=4.5, color=COLORS[0])
    if panel.best is not None:
        axes.plot([panel.x[panel.best]], [panel.y[panel.best]], linestyle="", marker="*", markersize=12, color=COLORS[1])
    if panel.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(panel.x_title, fontsize=8.5)
    axes.set_ylabel(panel.y_title, fontsize=8.5)
