"""Write the health report of a run: a verdict on every rule, as Markdown with plots."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.plots import healthy_ranges, metrics_to_plot, plot_png
from sb3_pgx.diagnostics.rules import Rule, RuleState

NAME = "health"


def write_health_report(
    folder: Path, title: str, states: Sequence[RuleState], steps: Sequence[float], series: Series, warnings: Sequence[str] = ()
) -> Path:
    """
    Write ``health.md`` and, if matplotlib is installed, ``health.png``. If they exist, write ``health-2.md`` and so on.

    :param folder: folder to write to, created if it does not exist
    :param title: heading of the report
    :param states: the state of each rule at the end of the run
    :param steps: environment steps of each measured update
    :param series: the metrics of each measured update
    :param warnings: the warnings given during the run
    :return: path of the report
    """
    number = 1
    while (folder / f"{_stem(number)}.md").exists():
        number += 1
    path = folder / f"{_stem(number)}.md"
    picture = None
    rules = [state.rule for state in states]
    judged = {rule.metric: series[rule.metric] for rule in rules if rule.metric in series}
    if find_spec("matplotlib") is not None and metrics_to_plot(judged):
        picture = path.with_suffix(".png").name
        plot_png(path.with_suffix(".png"), steps, judged, healthy_ranges(rules))
    write_text(path, health_report_text(title, states, series, warnings, picture))
    return path


def _stem(number: int) -> str:
    return NAME if number == 1 else f"{NAME}-{number}"


def health_report_text(
    title: str, states: Sequence[RuleState], series: Series, warnings: Sequence[str] = (), picture: str | None = None
) -> str:
    """
    Return the report as Markdown.

    :param title: heading of the report
    :param states: the state of each rule
    :param series: the metrics of each measured update
    :param warnings: the warnings given during the run
    :param picture: file name of the plots; ``None`` if there are none
    """
    alarmed = [state for state in states if state.alarms]
    lines = [f"# {title}", "", summary(states), ""]
    for state in sorted(alarmed, key=lambda state: -state.alarms):
        lines += [f"- **{state.rule.name}**: {state.rule.meaning}. Try this: {state.rule.remedy}."]
    if alarmed:
        lines.append("")
    lines += ["| rule | verdict | metric | last | min | max | alarm if | sources |", "|" + "---|" * 8]
    lines += [f"| {' | '.join(_row(state, series))} |" for state in states]
    lines += ["", 'Sources that differ are listed side by side. "Updates" are measured updates.', ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    if find_spec("matplotlib") is None:
        lines += ['Plots need matplotlib: `pip install "sb3_pgx[plots]"`.']
    elif picture is not None:
        lines += ["## Metrics over the run", "", f"![metrics over the run, healthy ranges shaded]({picture})"]
    return "\n".join(lines) + "\n"


def summary(states: Sequence[RuleState]) -> str:
    """Return one sentence about all rules together."""
    judged, alarmed = [s for s in states if s.judged], [s for s in states if s.alarms]
    if not judged:
        return "No rule could be applied: too few updates were measured."
    if not alarmed:
        return f"Healthy: none of {len(judged)} rules was in alarm."
    were, still = ("was" if len(alarmed) == 1 else "were"), sum(s.in_alarm for s in alarmed)
    return f"{len(alarmed)} of {len(judged)} rules {were} in alarm, {still} of them at the end of the run."


def _row(state: RuleState, series: Series) -> list[str]:
    rule = state.rule
    known = [x for x in series.get(rule.metric, ()) if not math.isnan(x)]
    numbers = [f"{x:.3g}" for x in (known[-1], min(known), max(known))] if known else ["", "", ""]
    patience = f" for {rule.patience} updates in a row" if rule.patience > 1 else ""
    return [rule.name, _verdict(state, bool(known)), rule.metric, *numbers, f"{rule.condition}{patience}", _sources(rule)]


def _verdict(state: RuleState, measured: bool) -> str:
    if not state.judged:
        return "too few updates" if measured and state.rule.warm_up else "not measured"
    if not state.alarms:
        return "healthy"
    return f"**alarm** at {state.alarms} of {state.judged} updates"


def _sources(rule: Rule) -> str:
    return "; ".join(f"{source.statement} ({source.reference})" for source in rule.sources)
