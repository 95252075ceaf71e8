"""Charts as plain data. A web page draws them with Plotly, a PNG file with matplotlib."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_pgx.pages.looks import Look

FEW = 10  # whole numbers that fit on an axis
Points: TypeAlias = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Line:
    """
    A line over x, with the runs that it summarises.

    :param name: name in the legend
    :param x: ascending, ``[P]``
    :param y: ``[P]``
    :param look: colour, dashes and marker
    :param low: lower end of the interval at each point, ``[P]``; empty for none
    :param high: upper end, ``[P]``; empty for none
    :param runs: x and y of each run, drawn thinly behind the line
    """

    name: str
    x: Points
    y: Points
    look: Look
    low: Points = ()
    high: Points = ()
    runs: tuple[tuple[Points, Points], ...] = ()


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line, such as a threshold. ``alarm``: whether values beyond it are an alarm."""

    value: float
    name: str
    alarm: bool = False


@dataclass(frozen=True)
class Lines:
    """
    One pair of axes with lines.

    :param title: text above the axes
    :param x_title: what x is, with its unit
    :param y_title: what y is, with its unit
    :param lines: the lines, in the order of the legend
    :param levels: horizontal lines
    :param healthy: range of y that is shaded, or ``None``
    :param x_end: where the x axis ends; ``None`` for the end of the data
    :param y_range: range of the y axis; ``None`` for that of the data and the levels
    :param log_y: whether the y axis is logarithmic
    :param marked: whether the panel shows an alarm
    """

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    healthy: tuple[float, float] | None = None
    x_end: float | None = None
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    marked: bool = False

    @property
    def counts_few(self) -> bool:
        """Whether x counts a few things, such as trials: an axis has no numbers between them."""
        xs = [float(x) for line in self.lines for x in line.x]
        return all(x.is_integer() for x in xs) and max(xs, default=math.inf) - min(xs, default=0) <= FEW


@dataclass(frozen=True)
class Dot:
    """A number with its interval; the ends are NaN if there is none."""

    name: str
    value: float
    low: float
    high: float
    look: Look


@dataclass(frozen=True)
class Dots:
    """
    Numbers with intervals, one below the other.

    :param title: text above the axes
    :param x_title: what the numbers are, with their unit
    :param dots: the numbers, from top to bottom
    :param reference: a dashed vertical line, or ``None``
    :param x_range: range of the axis; ``None`` for that of the data
    """

    title: str
    x_title: str
    dots: tuple[Dot, ...]
    reference: float | None = None
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scatter:
    """
    Single points, such as the trials of a search.

    :param title: text above the axes
    :param x_title: what x is
    :param y_title: what y is
    :param x: numbers, or names of categories, ``[P]``
    :param y: ``[P]``
    :param names: text of each point, shown by the pointer, ``[P]``
    :param best: index of the point that is marked, or ``None``
    :param log_x: whether the x axis is logarithmic
    """

    title: str
    x_title: str
    y_title: str
    x: Sequence[float] | Sequence[str]
    y: Points
    names: Sequence[str]
    best: int | None = None
    log_x: bool = False


Panel: TypeAlias = Lines | Dots | Scatter


@dataclass(frozen=True)
class Chart:
    """
    Panels under one caption.

    :param name: file name of the picture, without a suffix
    :param caption: what the chart shows
    :param panels: the panels
    """

    name: str
    caption: str
    panels: tuple[Panel, ...] = field(default=())


def finite(x: Points, y: Points) -> tuple[list[float], list[float]]:
    """Return the coordinates of the points whose y is finite."""
    kept = [(float(a), float(b)) for a, b in zip(x, y, strict=False) if math.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]
