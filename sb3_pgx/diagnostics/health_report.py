"""Write the health report of a run: a verdict on every rule, as Markdown with plots."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.plots import compose, metrics_to_plot, write_pictures
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.diagnostics.verdicts import RULE_HEADER, summary, verdict_rows
from sb3_pgx.pages.html import as_html

NAME = "health"


def write_health_report(
    folder: Path, title: str, states: Sequence[RuleState], steps: Sequence[float], series: Series, warnings: Sequence[str] = ()
) -> Path:
    """
    Write ``health.md``, ``health.html`` and, if matplotlib is installed, ``health.png``. If they exist, write ``health-2.md``
    and so on.

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
    if metrics_to_plot(judged):
        if find_spec("matplotlib") is not None:
            picture = path.with_suffix(".png").name
            write_pictures(path.with_suffix(".png"), steps, judged, states)
        page = as_html(compose(title, steps, series, states, warnings))
        write_text(path.with_suffix(".html"), page)
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
    lines += [f"| {' | '.join(RULE_HEADER)} |", "|" + "---|" * len(RULE_HEADER)]
    lines += [f"| {' | '.join(row)} |" for row in verdict_rows(states, series, mark="**")]
    lines += ["", 'Sources that differ are listed side by side. "Updates" are measured updates.', ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    if find_spec("matplotlib") is None:
        lines += [f"Plots need matplotlib: `{install_command('plots')}`."]
    elif picture is not None:
        lines += ["## Metrics over the run", "", f"![metrics over the run, healthy ranges shaded]({picture})"]
    return "\n".join(lines) + "\n"
