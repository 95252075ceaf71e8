"""
Turns charts into the figures that Plotly draws in a web page.

Colours are names of the page's style sheet, such as ``var(--ink)``, which the page replaces: they depend on whether the reader
prefers a light or a dark page. A number after the name is an opacity.
"""

import math
from html import escape
from importlib.resources import files
from textwrap import wrap
from typing import Any

import numpy as np

from sb3_pgx.pages.charts import Dot, Dots, Level, Line, Lines, Panel, Points, Scatter, finite

Figure = dict[str, Any]  # in JSON's types: "data" and "layout"
HEIGHT, TEXT = 330, 15  # pixels of a panel with a y axis, and of a line of text
WRAP = 34  # most characters of a line of text, so that a name fits on the screen of a telephone
NAME, TITLE = 24, 30  # the same for names beside the axes, and for titles of axes
SCREEN, LETTER, SYMBOL = 300, 7, 45  # pixels of a telephone's screen, of a letter, and of a line's symbol in the legend
MANY_POINTS = 40  # lines with more points have no markers
DECADES = 100  # ratio of the ends of a logarithmic axis from which on only powers of ten have numbers


def plotly_library() -> str:
    """Return the source of plotly.js (its "basic" bundle, MIT licence), without calls that need a network."""
    return files("sb3_pgx.pages").joinpath("plotly-basic.min.js").read_text(encoding="utf-8")


def figure_of(panel: Panel) -> Figure:
    """Return the figure of a panel."""
    if isinstance(panel, Dots):
        return _dots(panel)
    return _lines(panel) if isinstance(panel, Lines) else _scatter(panel)


def _lines(panel: Lines) -> Figure:
    data = [trace for line in panel.lines for trace in _traces(line)]
    y_axis = _axis(panel.y_title, **({"type": "log", "exponentformat": "power"} if panel.log_y else {"type": "linear"}))
    if panel.y_range is not None:
        y_axis["range"] = [math.log10(y) for y in panel.y_range] if panel.log_y else [*panel.y_range]
        if panel.log_y and panel.y_range[1] > DECADES * panel.y_range[0]:
            y_axis["dtick"] = 1  # numbers of powers of ten alone; those between them would be crowded
    x_axis = _axis(panel.x_title)
    if panel.x_end is not None:
        x_axis["range"] = [0, panel.x_end]
    if panel.counts_few:
        x_axis["dtick"] = 1
    shapes = [_level(level) for level in panel.levels]
    if panel.healthy is not None:
        low, high = panel.healthy
        if panel.log_y and low <= 0:
            low = 1e-12
        band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}
        shapes.append({**band, "fillcolor": "var(--healthy) 0.16", "line": {"width": 0}})
    notes = [_level_name(level, panel.log_y) for level in panel.levels if level.name]
    names = [line.name for line in panel.lines] if len(panel.lines) > 1 else []
    layout = _layout(HEIGHT + _height_of_legend(names), x_axis, y_axis, showlegend=bool(names))
    return {"data": data, "layout": {**layout, "shapes": shapes, "annotations": notes}}


def _height_of_legend(names: list[str]) -> int:
    """Return the pixels that a legend on the screen of a telephone needs beyond two lines of text."""
    widths = [SYMBOL + LETTER * min(len(name), WRAP) for name in names]
    return 20 * max(0, math.ceil(sum(widths) / SCREEN) - 2)


def _traces(line: Line) -> list[Figure]:
    """Return the traces of a line: its interval, its runs and itself. The legend shows and hides them together."""
    color, group = f"var(--c{line.look.place})", {"legendgroup": line.name}
    behind = {**group, "showlegend": False, "hoverinfo": "skip", "mode": "lines"}
    traces: list[Figure] = []
    if len(line.low):
        x = [*line.x, *reversed(line.x)]
        y = [*line.high, *reversed(line.low)]
        traces.append(
            {**behind, "x": _list(x), "y": _list(y), "fill": "toself", "fillcolor": f"{color} 0.16", "line": {"width": 0}}
        )
    for xs, ys in line.runs:
        thin = {"color": f"{color} 0.6", "width": 1, "dash": _dash(line)}
        traces.append({**behind, "x": _list(xs), "y": _list(ys), "line": thin})
    x, y = finite(line.x, line.y)
    mode = "lines+markers" if len(x) <= MANY_POINTS else "lines"
    marker = {"symbol": line.look.marker[0], "size": 6, "color": color}
    style = {"color": color, "width": 2.2, "dash": _dash(line)}
    return [*traces, {**group, "name": _text(line.name), "x": x, "y": y, "mode": mode, "line": style, "marker": marker}]


def _dash(line: Line) -> str:
    return ",".join(f"{length}px" for length in line.look.dash) or "solid"


def _level(level: Level) -> Figure:
    color = "var(--alarm)" if level.alarm else "var(--soft)"
    style = {"color": color, "width": 1.4, "dash": "dot" if level.alarm else "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level.value, "y1": level.value, "line": style}


def _level_name(level: Level, log_y: bool) -> Figure:
    y = math.log10(level.value) if log_y else level.value
    font = {"size": 11, "color": "var(--alarm)" if level.alarm else "var(--soft)"}
    where = {"xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "showarrow": False}
    return {**where, "text": _text(level.name), "font": font}


def _dots(panel: Dots) -> Figure:
    data = [trace for place, dot in enumerate(panel.dots) for trace in _dot(dot, place)]
    y_axis = _axis("", showgrid=False, zeroline=False, fixedrange=True)
    names = [_text(dot.name, NAME) for dot in panel.dots]
    row = TEXT * max(name.count("<br>") + 2 for name in names)
    y_axis |= {"tickvals": [*range(len(panel.dots))], "ticktext": names}
    y_axis["range"] = [len(panel.dots) - 0.5, -0.5]
    x_axis = _axis(panel.x_title)
    if panel.x_range is not None:
        x_axis["range"] = [*panel.x_range]
    title = TEXT * (x_axis["title"]["text"].count("<br>") + 1)
    layout = _layout(55 + title + row * len(panel.dots), x_axis, y_axis, showlegend=False)
    layout["minreducedheight"] = row  # otherwise the title of the axis would lie on its numbers if there is one row
    if panel.reference is not None:
        x, line = panel.reference, {"color": "var(--soft)", "width": 1.4, "dash": "dash"}
        layout["shapes"] = [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line}]
    return {"data": data, "layout": layout}


def _dot(dot: Dot, place: int) -> list[Figure]:
    color = f"var(--c{dot.look.place})"
    known = math.isfinite(dot.low)
    said = f"{dot.value:.4g} [{dot.low:.4g}, {dot.high:.4g}]" if known else f"{dot.value:.4g}, no interval"
    text = {"hovertemplate": f"{said}<extra></extra>", "showlegend": False}
    interval = {"x": [dot.low, dot.high], "y": [place, place], "mode": "lines", "line": {"color": f"{color} 0.4", "width": 9}}
    marker = {"symbol": dot.look.marker[0] if known else f"{dot.look.marker[0]}-open", "size": 10, "color": color}
    value = {"x": [_number(dot.value)], "y": [place], "mode": "markers", "marker": marker}
    return [*([{**text, **interval}] if known else []), {**text, **value}]


def _scatter(panel: Scatter) -> Figure:
    is_best = [i == panel.best for i in range(len(panel.y))]
    marker = {
        "size": [12 if best else 7 for best in is_best],
        "symbol": ["star" if best else "circle" for best in is_best],
        "color": ["var(--c1)" if best else "var(--c0)" for best in is_best],
    }
    points = {
        "x": [*panel.x],
        "y": _list(panel.y),
        "text": [_text(name) for name in panel.names],
        "mode": "markers",
        "marker": marker,
    }
    data = [{**points, "hovertemplate": "%{text}<br>%{x}: %{y:.4g}<extra></extra>"}]
    kind = "category" if any(isinstance(x, str) for x in panel.x) else "log" if panel.log_x else "linear"
    x_axis = _axis(panel.x_title, type=kind, exponentformat="power")  # not 10μ for a learning rate
    return {"data": data, "layout": _layout(HEIGHT - 60, x_axis, _axis(panel.y_title), showlegend=False)}


def _axis(title: str, **more: Any) -> Figure:
    look = {"gridcolor": "var(--grid)", "zerolinecolor": "var(--grid)", "linecolor": "var(--soft)", "automargin": True}
    return {**look, "title": {"text": _text(title, TITLE), "standoff": 8}, **more}


def _layout(height: int, x_axis: Figure, y_axis: Figure, showlegend: bool) -> Figure:
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        "paper_bgcolor": "var(--paper)",
        "plot_bgcolor": "var(--paper)",
        "font": {"color": "var(--ink)", "family": "system-ui, sans-serif", "size": 12},
        "hoverlabel": {"bgcolor": "var(--shade)", "bordercolor": "var(--soft)", "font": {"color": "var(--ink)"}},
        "xaxis": x_axis,
        "yaxis": y_axis,
        "showlegend": showlegend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
    }


def _text(text: str, width: int = WRAP) -> str:
    """Return the text in lines, with the characters escaped that Plotly would take for markup."""
    return "<br>".join(escape(line, quote=False) for line in wrap(text, width, break_on_hyphens=False))


def _list(values: Points) -> list[float | None]:
    return [_number(x) for x in values]


def _number(x: float) -> float | None:
    """Return the number to seven digits, which keeps the page small; ``None`` if it is not finite, which JSON lacks."""
    return float(f"{float(x):.7g}") if np.isfinite(x) else None
