"""Conditions on a metric, each true if something is wrong: above a threshold, fallen quickly, rising while another falls, …"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# One number per measured update for each metric, the latest one last; NaN if unknown.
Series = Mapping[str, Sequence[float]]


class Condition(Protocol):
    """A test of the latest numbers that is true if something is wrong."""

    def holds(self, series: Series, metric: str) -> bool:
        """
        Return whether the condition holds at the latest update.

        :param series: all metrics up to now
        :param metric: the metric to test; its latest number is not NaN
        """

    def __str__(self) -> str:
        """Return the threshold in words that follow the value, such as ``above 0.1``."""


@dataclass(frozen=True)
class Above:
    """The metric is greater than ``threshold``."""

    threshold: float

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the latest number is greater than the threshold."""
        return series[metric][-1] > self.threshold

    def levels(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the levels of the metric beyond which the condition holds, for plots."""
        return (self.threshold,)

    def __str__(self) -> str:
        return f"above {self.threshold:g}"


@dataclass(frozen=True)
class Below:
    """The metric is less than ``threshold`` and, if ``other`` is given, the metric ``other`` is greater than ``floor``."""

    threshold: float
    other: str | None = None
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the latest number is less than the threshold, and the other metric greater than its floor."""
        applies = self.other is None or series[self.other][-1] > self.floor
        return applies and series[metric][-1] < self.threshold

    def levels(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the levels of the metric beyond which the condition holds, for plots."""
        return (self.threshold,)

    def __str__(self) -> str:
        return f"below {self.threshold:g}" + (f" while {self.other} is above {self.floor:g}" if self.other else "")


@dataclass(frozen=True)
class Outside:
    """The metric is less than ``low`` or greater than ``high``."""

    low: float
    high: float

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the latest number is out of the range."""
        return not self.low <= series[metric][-1] <= self.high

    def levels(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the levels of the metric beyond which the condition holds, for plots."""
        return (self.low, self.high)

    def __str__(self) -> str:
        return f"outside {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Fell:
    """The metric was at least ``high`` during the last ``within`` updates and is below ``low`` now."""

    high: float
    low: float
    within: int

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the metric is low now and was high within the last updates."""
        *before, now = series[metric][-self.within - 1 :]
        updates = series.get("update", range(len(series[metric])))[-self.within - 1 :]  # not every update may be measured
        recent = [x for x, update in zip(before, updates, strict=False) if updates[-1] - update <= self.within]
        return now < self.low and any(x >= self.high for x in recent)

    def levels(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the levels of the metric beyond which the condition holds, for plots."""
        return (self.low,)

    def __str__(self) -> str:
        return f"fallen from {self.high:g} or more to below {self.low:g} within {self.within} updates"


@dataclass(frozen=True)
class Grew:
    """The metric is more than ``factor`` times its first value and greater than ``floor``."""

    factor: float
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the latest number is a multiple of the first one."""
        (level,) = self.levels(series[metric])
        return series[metric][-1] > level

    def levels(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the levels of the metric beyond which the condition holds, for plots."""
        return (max(self.factor * next(x for x in values if not math.isnan(x)), self.floor),)

    def __str__(self) -> str:
        return f"above {self.factor:g} times its first value" + (f" and above {self.floor:g}" if self.floor else "")


@dataclass(frozen=True)
class Spiked:
    """The metric exceeds ``floor`` and ``factor`` times its median over the previous ``window`` measured updates."""

    factor: float
    window: int
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the latest number is a multiple of the median before it."""
        *before, now = series[metric][-self.window - 1 :]
        known = [x for x in before if not math.isnan(x)]
        return len(known) == self.window and now > max(self.factor * statistics.median(known), self.floor)

    def __str__(self) -> str:
        return f"above {self.factor:g} times its median over the previous {self.window} measured updates" + (
            f" and above {self.floor:g}" if self.floor else ""
        )


@dataclass(frozen=True)
class RoseWhileOtherFell:
    """
    The metric rose while the metric ``other`` fell, comparing means over the two halves of a window.

    The window is the last ``window`` updates at which both were measured. Each change must exceed ``share`` of the range that
    its metric has had so far, and three standard errors.
    """

    other: str
    window: int
    share: float

    def holds(self, series: Series, metric: str) -> bool:
        """Return whether the metric rose and the other one fell, both by more than chance explains."""
        pairs = [(x, -y) for x, y in zip(series[metric], series[self.other], strict=True) if not math.isnan(x + y)]
        if len(pairs) < self.window or math.isnan(series[self.other][-1]):
            return False
        return all(self._relative_rise(values) > self.share for values in zip(*pairs, strict=True))

    def _relative_rise(self, values: Sequence[float]) -> float:
        """Return the rise from the first to the second half as a share of the range, or 0 if it may be chance."""
        half = self.window // 2
        first, second = values[-2 * half : -half], values[-half:]
        rise = statistics.mean(second) - statistics.mean(first)
        error = math.sqrt((statistics.variance(first) + statistics.variance(second)) / half)
        return rise / (max(values) - min(values)) if rise > 3 * error else 0.0

    def __str__(self) -> str:
        return f"rising while {self.other} falls, each by {self.share:.0%} of its range in {self.window} measured updates"
