"""A rule of health: a metric, a condition, how long it has to hold, and what to say then. Rules are records: add your own."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Series = Mapping[str, Sequence[float]]  # by metric, one number a measured update, the last one is now; NaN where unknown


class Condition(Protocol):
    """Whether something is wrong now."""

    def holds(self, series: Series, metric: str) -> bool:
        """Whether it is so at the last number of ``metric``, which is not NaN."""

    def __str__(self) -> str:
        """The threshold, in words that follow the value: ``above 0.1``."""


@dataclass(frozen=True)
class Above:
    """The metric is greater than ``threshold``."""

    threshold: float

    def holds(self, series: Series, metric: str) -> bool:
        return series[metric][-1] > self.threshold

    def __str__(self) -> str:
        return f"above {self.threshold:g}"


@dataclass(frozen=True)
class Below:
    """The metric is less than ``threshold``, and ``other``, if there is one, greater than ``floor``."""

    threshold: float
    other: str | None = None
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        matters = self.other is None or series[self.other][-1] > self.floor
        return matters and series[metric][-1] < self.threshold

    def __str__(self) -> str:
        return f"below {self.threshold:g}" + (f" where {self.other} is above {self.floor:g}" if self.other else "")


@dataclass(frozen=True)
class Outside:
    """The metric is not between ``low`` and ``high``."""

    low: float
    high: float

    def holds(self, series: Series, metric: str) -> bool:
        return not self.low <= series[metric][-1] <= self.high

    def __str__(self) -> str:
        return f"outside {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Fell:
    """The metric was at least ``high`` within the last ``within`` updates, and is below ``low`` now."""

    high: float
    low: float
    within: int

    def holds(self, series: Series, metric: str) -> bool:
        *before, now = series[metric][-self.within - 1 :]
        updates = series.get("update", range(len(series[metric])))[-self.within - 1 :]  # not every one may have been measured
        recent = [x for x, update in zip(before, updates, strict=False) if updates[-1] - update <= self.within]
        return now < self.low and any(x >= self.high for x in recent)

    def __str__(self) -> str:
        return f"from above {self.high:g} to below {self.low:g} within {self.within} updates"


@dataclass(frozen=True)
class Grew:
    """The metric is more than ``factor`` times what it was first, and greater than ``floor``."""

    factor: float
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        first = next(x for x in series[metric] if not math.isnan(x))
        return series[metric][-1] > max(self.factor * first, self.floor)

    def __str__(self) -> str:
        return f"above {self.factor:g} times what it was first"


@dataclass(frozen=True)
class Spiked:
    """The metric is more than ``factor`` times its median over the ``window`` measured updates before, and than ``floor``."""

    factor: float
    window: int
    floor: float = 0.0

    def holds(self, series: Series, metric: str) -> bool:
        *before, now = series[metric][-self.window - 1 :]
        known = [x for x in before if not math.isnan(x)]
        return len(known) == self.window and now > max(self.factor * statistics.median(known), self.floor)

    def __str__(self) -> str:
        return f"above {self.factor:g} times its median over {self.window} measured updates"


@dataclass(frozen=True)
class Parted:
    """
    From the first to the second half of the last ``window`` updates in which both were measured, the mean of the metric has
    risen and that of ``other`` has fallen, each by more than ``share`` of the range it has had so far and by more than three
    standard errors.
    """

    other: str
    window: int
    share: float

    def holds(self, series: Series, metric: str) -> bool:
        pairs = [(x, -y) for x, y in zip(series[metric], series[self.other], strict=True) if not math.isnan(x + y)]
        if len(pairs) < self.window or math.isnan(series[self.other][-1]):
            return False
        return all(self._rise(values) > self.share for values in zip(*pairs, strict=True))

    def _rise(self, values: Sequence[float]) -> float:
        """As a share of the range; 0 where it may be chance."""
        half = self.window // 2
        first, second = values[-2 * half : -half], values[-half:]
        rise = statistics.mean(second) - statistics.mean(first)
        error = math.sqrt((statistics.variance(first) + statistics.variance(second)) / half)
        return rise / (max(values) - min(values)) if rise > 3 * error else 0.0

    def __str__(self) -> str:
        return f"rising while {self.other} falls, each by {self.share:.0%} of its range in {self.window} measured updates"


@dataclass(frozen=True)
class Source:
    """
    Where a threshold comes from.

    :param says: the range that it calls healthy, or the fact
    :param where: author, year and title, or the project
    """

    says: str
    where: str


@dataclass(frozen=True)
class Rule:
    """
    :param name: under which alarms are reported
    :param metric: of :data:`~sb3_pgx.diagnostics.METRICS`
    :param condition: what is wrong
    :param sentence: what it means, in plain English
    :param remedy: one change to try
    :param sources: of the threshold; ranges that differ stand side by side in the report
    :param patience: measured updates in a row for which the condition has to hold
    :param warm_up: measured updates at the beginning that do not count
    :param until: share of the training after which the rule has nothing to say any more
    :param healthy: the range that a plot shades
    """

    name: str
    metric: str
    condition: Condition
    sentence: str
    remedy: str
    sources: tuple[Source, ...] = ()
    patience: int = 1
    warm_up: int = 0
    until: float = 1.0
    healthy: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.patience < 1 or self.warm_up < 0 or not 0 < self.until <= 1:
            raise ValueError(
                f"rule {self.name}: patience={self.patience} must be at least 1, warm_up={self.warm_up} at least 0, and "
                f"until={self.until} in (0, 1]"
            )


@dataclass
class Watch:
    """A rule under way: how often in a row its condition has held."""

    rule: Rule
    held: int = 0
    known: int = 0  # measured updates in which the metric was known
    looked: int = 0  # those of them that count
    alarms: int = 0  # updates at which it was in alarm

    @property
    def in_alarm(self) -> bool:
        """Whether the condition has held for long enough."""
        return self.held >= self.rule.patience

    def look(self, series: Series, progress: float = 0.0) -> bool:
        """
        After a measured update.

        :param series: up to now
        :param progress: share of the training that is done
        :return: whether the rule is in alarm; as before where the metric has not been measured this time
        """
        rule, values = self.rule, series.get(self.rule.metric, ())
        other = getattr(rule.condition, "other", None) or rule.metric
        if not values or math.isnan(values[-1]) or other not in series:
            return False
        self.known += 1
        if self.known <= rule.warm_up or progress > rule.until:
            self.held = 0
            return False
        self.looked += 1
        self.held = self.held + 1 if rule.condition.holds(series, rule.metric) else 0
        self.alarms += self.in_alarm
        return self.in_alarm
