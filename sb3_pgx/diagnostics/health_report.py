"""The verdict on a training, rule by rule, as Markdown with pictures."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.diagnostics.conditions import Rule, Series, Watch
from sb3_pgx.diagnostics.plots import healthy_ranges, save_png, shown

NAME = "health"


def write_report(
    folder: Path, title: str, watches: Sequence[Watch], steps: Sequence[float], series: Series, warnings: Sequence[str] = ()
) -> Path:
    """
    Write ``health.md`` and, where matplotlib is installed, ``health.png``; where there are some, ``health-2.md`` and so on.

    :param folder: made if need be
    :param title: of the report
    :param watches: the rules and what became of them
    :param steps: environment steps of each measured update
    :param series: what was measured
    :param warnings: that were given
    :return: the report's path
    """
    number = 1
    while (folder / f"{name_of(number)}.md").exists():
        number += 1
    path = folder / f"{name_of(number)}.md"
    picture = None
    rules = [watch.rule for watch in watches]
    judged = {rule.metric: series[rule.metric] for rule in rules if rule.metric in series}
    if find_spec("matplotlib") is not None and shown(judged):
        picture = path.with_suffix(".png").name
        save_png(path.with_suffix(".png"), steps, judged, healthy_ranges(rules))
    write_text(path, markdown(title, watches, series, warnings, picture))
    return path


def name_of(number: int) -> str:
    return NAME if number == 1 else f"{NAME}-{number}"


def markdown(
    title: str, watches: Sequence[Watch], series: Series, warnings: Sequence[str] = (), picture: str | None = None
) -> str:
    """
    The report.

    :param picture: file with the plots; ``None``: there is none
    """
    alarmed = [watch for watch in watches if watch.alarms]
    lines = [f"# {title}", "", headline(watches), ""]
    for watch in sorted(alarmed, key=lambda watch: -watch.alarms):
        rule = watch.rule
        lines += [f"- **{rule.name}**: {rule.sentence}. Try this: {rule.remedy}."]
    if alarmed:
        lines.append("")
    lines += ["| rule | verdict | metric | last | least | greatest | alarm | called healthy |", "|" + "---|" * 8]
    lines += [f"| {' | '.join(row(watch, series))} |" for watch in watches]
    lines += ["", "Where sources differ, their ranges stand side by side. Rules count measured updates.", ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    if find_spec("matplotlib") is None:
        lines += ['Pictures need matplotlib: `pip install "sb3_pgx[plots]"`.']
    elif picture is not None:
        lines += ["## Over the training", "", f"![what was measured, healthy ranges shaded]({picture})"]
    return "\n".join(lines) + "\n"


def headline(watches: Sequence[Watch]) -> str:
    """One sentence on all rules together."""
    judged, alarmed = [w for w in watches if w.looked], [w for w in watches if w.alarms]
    if not judged:
        return "No rule has had anything to judge: too few updates were measured."
    if not alarmed:
        return f"Healthy: none of {len(judged)} rules was in alarm."
    return f"{len(alarmed)} of {len(judged)} rules were in alarm, {sum(w.in_alarm for w in alarmed)} of them at the end."


def row(watch: Watch, series: Series) -> list[str]:
    """A line of the table."""
    rule = watch.rule
    known = [x for x in series.get(rule.metric, ()) if not math.isnan(x)]
    numbers = [f"{x:.3g}" for x in (known[-1], min(known), max(known))] if known else ["", "", ""]
    patience = f" for {rule.patience} in a row" if rule.patience > 1 else ""
    return [rule.name, verdict(watch, bool(known)), rule.metric, *numbers, f"{rule.condition}{patience}", sources(rule)]


def verdict(watch: Watch, measured: bool) -> str:
    """Of one rule, whose metric has been measured or not."""
    if not watch.looked:
        return "too early to say" if measured and watch.rule.warm_up else "not measured"
    if not watch.alarms:
        return "healthy"
    return f"**alarm** at {watch.alarms} of {watch.looked} updates"


def sources(rule: Rule) -> str:
    return "; ".join(f"{source.says} ({source.where})" for source in rule.sources)
