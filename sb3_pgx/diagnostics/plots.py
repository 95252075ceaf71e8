"""Plot the metrics of a run, as PNG and as a self-contained web page: alarms first, with healthy ranges and alarm lines."""

import math
from collections.abc import Sequence
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.metrics import METRICS
from sb3_pgx.diagnostics.panels import THEMES, alarmed_families, panels_of
from sb3_pgx.diagnostics.progress_file import read_progress
from sb3_pgx.diagnostics.rules import RuleState, apply_rules
from sb3_pgx.diagnostics.verdicts import RULE_HEADER, summary, verdict_rows
from sb3_pgx.pages.blocks import Block, Bullets, Document, Note, Section, Table
from sb3_pgx.pages.charts import Chart, Lines
from sb3_pgx.pages.html import as_html
from sb3_pgx.pages.pictures import save_picture
from sb3_pgx.pages.provenance import origin

COLUMNS = 4
CAPTION = "Every measured update. Green: healthy range. Dotted red line: beyond it, a rule is in alarm."


def plot_folder(folder: Path, force: bool = False) -> list[Path]:
    """
    Plot the ``progress.csv`` of a run into the same folder.

    :param folder: folder to which the run logged
    :param force: replace earlier plots
    :return: paths of ``diagnostics.png`` and ``diagnostics.html``
    :raises ValueError: there is nothing to plot, or plots exist and ``force`` is false
    :raises ImportError: matplotlib is not installed
    """
    require_extra("plots", ("matplotlib",))
    steps, series = read_progress(folder)
    parent = folder if folder.is_dir() else folder.parent
    if not metrics_to_plot(series):
        raise ValueError(f"{folder} holds no finite number to plot")
    png, html = (parent / f"diagnostics.{kind}" for kind in ("png", "html"))
    existing = [str(path) for path in (png, html) if path.exists()]
    if existing and not force:
        raise ValueError(f"{existing[0]} already exists; --force replaces it")
    states = apply_rules(DEFAULT_RULES, series)
    write_pictures(png, steps, series, states)
    document = compose(f"Metrics of {parent.resolve().name}", steps, series, states, _remarks(series))
    write_text(html, as_html(document))
    return [png, html]


def _remarks(series: Series) -> tuple[str, ...]:
    if "timesteps" in series:
        return ()
    return (
        "This log was written without DiagnosticsCallback. SB3 logs an update after the rollout that follows it, so every "
        "point is one rollout late, and most rules lack their metric.",
    )


def metrics_to_plot(series: Series) -> list[str]:
    """Return the metrics that have a finite value, in the order of :data:`~sb3_pgx.diagnostics.METRICS`."""
    return [name for name in METRICS if any(math.isfinite(x) for x in series.get(name, ()))]


def write_pictures(path: Path, steps: Sequence[float], series: Series, states: Sequence[RuleState]) -> None:
    """
    Write a PNG with a panel per family of metrics, those in alarm first.

    :param path: file to write
    :param steps: environment steps of each measured update
    :param series: metrics of each measured update
    :param states: the rules, applied to the run
    """
    panels = [panel for _, theme in _themes(steps, series, states) for panel in theme]
    save_picture(Chart(path.stem, CAPTION, tuple(panels)), path, COLUMNS)


def compose(
    title: str, steps: Sequence[float], series: Series, states: Sequence[RuleState], remarks: Sequence[str] = ()
) -> Document:
    """
    Return the metrics of a run as a report.

    :param title: title of the report
    :param steps: environment steps of each measured update
    :param series: metrics of each measured update
    :param states: the rules, applied to the run
    :param remarks: notes that affect how the report is read
    """
    sections = []
    for theme, panels in _themes(steps, series, states):
        name = theme.lower().replace(" ", "-")
        first: tuple[Block, ...] = (_alarms(states),) if theme == ALARMED else ()
        sections.append(Section(theme, (*first, Chart(name, CAPTION, panels))))
    rows = tuple(tuple(row) for row in verdict_rows(states, series))
    marked = frozenset(i for i, state in enumerate(states) if state.alarms)
    meanings = tuple((name, METRICS[name]) for name in metrics_to_plot(series))
    sections += [
        Section("Verdict on every rule", (Table(RULE_HEADER, rows, marked),)),
        Section("What the metrics mean", (Table(("metric", "meaning"), meanings),), folded=True),
        Section("Where this report comes from", (origin(),)),
    ]
    return Document(title, summary(states), tuple(map(Note, remarks)), tuple(sections))


ALARMED = "In alarm"


def _themes(steps: Sequence[float], series: Series, states: Sequence[RuleState]) -> list[tuple[str, tuple[Lines, ...]]]:
    """Return the themes with their panels, without empty ones. A panel in alarm is shown first, and only there."""
    first = alarmed_families(states)
    themes = {ALARMED: first, **{name: [f for f in theme if f not in first] for name, theme in THEMES.items()}}
    found = ((name, panels_of(families, steps, series, states)) for name, families in themes.items())
    return [(name, panels) for name, panels in found if panels]


def _alarms(states: Sequence[RuleState]) -> Bullets:
    alarmed = sorted((state for state in states if state.alarms), key=lambda state: -state.alarms)
    return Bullets(
        tuple(
            f"{s.rule.name}, at {s.alarms} of {s.judged} updates: {s.rule.meaning}. Try this: {s.rule.remedy}."
            for s in alarmed
        )
    )
