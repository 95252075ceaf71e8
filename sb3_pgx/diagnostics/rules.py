"""A rule of health: a metric, a condition on it, how long the condition must hold, and what to tell the user if it does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_pgx.diagnostics.conditions import Condition, Series


@dataclass(frozen=True)
class Source:
    """
    A source for a threshold.

    :param statement: the range that the source calls healthy, or the fact that it states
    :param reference: author, year and title, or the name of a project
    """

    statement: str
    reference: str


@dataclass(frozen=True)
class Rule:
    """
    A metric to watch, the condition that means trouble, and the advice for that case.

    :param name: short name of the problem, unique among the rules in use
    :param metric: a name from :data:`~sb3_pgx.diagnostics.METRICS`
    :param condition: the condition that means trouble, such as ``Above(0.1)``
    :param meaning: a sentence that says what is wrong, without a full stop
    :param remedy: one change to try, as an imperative without a full stop
    :param sources: where the threshold comes from; the report shows the sources side by side if they differ
    :param patience: number of consecutive measured updates for which the condition must hold before the rule is in alarm
    :param warm_up: number of measured updates at the start of the run that are ignored
    :param until: share of the run, in (0, 1], after which the rule is ignored
    :param healthy: range of healthy values that plots shade
    :raises ValueError: ``patience``, ``warm_up`` or ``until`` is out of range
    """

    name: str
    metric: str
    condition: Condition
    meaning: str
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
class RuleState:
    """
    A rule applied to one run, update after update.

    :param rule: the rule
    :param consecutive: number of consecutive judged updates at which the condition has held, up to now
    :param measured: number of updates at which the metric was known
    :param judged: number of those after the warm-up and before ``until``
    :param alarms: number of updates at which the rule was in alarm
    """

    rule: Rule
    consecutive: int = 0
    measured: int = 0
    judged: int = 0
    alarms: int = 0

    @property
    def in_alarm(self) -> bool:
        """Whether the condition has held for as many updates as the rule's patience requires."""
        return self.consecutive >= self.rule.patience

    def update(self, series: Series, progress: float = 0.0) -> bool:
        """
        Apply the rule after a measured update.

        Nothing changes if the metric is unknown at this update, or the other metric of the condition has never been known.

        :param series: all metrics up to now
        :param progress: share of the run that is done, in [0, 1]
        :return: whether the rule is in alarm at this update
        """
        rule, values = self.rule, series.get(self.rule.metric, ())
        other = getattr(rule.condition, "other", None) or rule.metric
        if not values or math.isnan(values[-1]) or all(map(math.isnan, series.get(other, ()))):
            return False
        self.measured += 1
        if self.measured <= rule.warm_up or progress > rule.until:
            self.consecutive = 0
            return False
        self.judged += 1
        self.consecutive = self.consecutive + 1 if rule.condition.holds(series, rule.metric) else 0
        self.alarms += self.in_alarm
        return self.in_alarm


def apply_rules(rules: Sequence[Rule], series: Series) -> list[RuleState]:
    """
    Apply rules to a finished run as they would have been applied during the run.

    :param rules: the rules
    :param series: the metrics of all updates. ``progress``, the share of the run that was done at each update, is their
        position among the updates if it is missing
    :return: the final state of each rule, in the order of ``rules``
    """
    states = [RuleState(rule) for rule in rules]
    total = max((len(values) for values in series.values()), default=0)
    progress = series.get("progress", [(row + 1) / total for row in range(total)])
    so_far: dict[str, list[float]] = {name: [] for name in series}
    for row in range(total):
        for name, values in series.items():
            so_far[name].append(values[row])
        for state in states:
            state.update(so_far, progress[row])
    return states
