"""The verdict of each rule on a run, in words."""

import math
from collections.abc import Sequence

from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.rules import Rule, RuleState

RULE_HEADER = ("rule", "verdict", "metric", "last", "min", "max", "alarm if", "sources")


def summary(states: Sequence[RuleState]) -> str:
    """Return one sentence about all rules together."""
    judged, alarmed = [s for s in states if s.judged], [s for s in states if s.alarms]
    if not judged:
        return "No rule could be applied: too few updates were measured."
    if not alarmed:
        return f"Healthy: none of {len(judged)} rules was in alarm."
    were, still = ("was" if len(alarmed) == 1 else "were"), sum(s.in_alarm for s in alarmed)
    return f"{len(alarmed)} of {len(judged)} rules {were} in alarm, {still} of them at the end of the run."


def verdict_rows(states: Sequence[RuleState], series: Series, mark: str = "") -> list[list[str]]:
    """
    Return a row per rule, with the columns of :data:`RULE_HEADER`.

    :param states: the state of each rule
    :param series: the metrics of each measured update
    :param mark: text around an alarm, such as ``**`` in Markdown
    """
    return [_row(state, series, mark) for state in states]


def _row(state: RuleState, series: Series, mark: str) -> list[str]:
    rule = state.rule
    known = [x for x in series.get(rule.metric, ()) if not math.isnan(x)]
    numbers = [f"{x:.3g}" for x in (known[-1], min(known), max(known))] if known else ["", "", ""]
    patience = f" for {rule.patience} updates in a row" if rule.patience > 1 else ""
    until = f", in the first {100 * rule.until:g} % of the run" if rule.until < 1 else ""
    return [
        rule.name,
        _verdict(state, bool(known), mark),
        rule.metric,
        *numbers,
        f"{rule.condition}{patience}{until}",
        _sources(rule),
    ]


def _verdict(state: RuleState, measured: bool, mark: str) -> str:
    if not state.judged:
        return "too few updates" if measured and state.rule.warm_up else "not measured"
    if not state.alarms:
        return "healthy"
    return f"{mark}alarm{mark} at {state.alarms} of {state.judged} updates"


def _sources(rule: Rule) -> str:
    return "; ".join(f"{source.statement} ({source.reference})" for source in rule.sources)
