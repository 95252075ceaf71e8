"""Writes the report of a comparison: a web page, Markdown, pictures and CSV files, all from the same numbers."""

from collections.abc import Sequence
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.analysis import Analysis
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.report.charts import compose_charts
from sb3_pgx.experiments.report.sections import compose
from sb3_pgx.experiments.report.spreadsheets import save_spreadsheets
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.pages.blocks import Section
from sb3_pgx.pages.html import as_html
from sb3_pgx.pages.markdown import as_markdown, brief
from sb3_pgx.pages.pictures import save_picture

__all__ = ["report_text", "write_report"]


def write_report(
    analysis: Analysis,
    results: Sequence[RunResult],
    design: ComparisonDesign,
    folder: Path,
    preface: tuple[Section, ...] = (),
) -> tuple[str, str]:
    """
    Write ``report.html``, ``report.md``, one PNG file per chart, and the CSV files.

    :param analysis: the numbers
    :param results: all runs
    :param design: the settings that the runs share
    :param folder: an existing folder
    :param preface: sections that come before all others
    :return: the report as Markdown, and its summary and tables of results alone
    :raises OSError: a file cannot be written; the message names the path
    """
    charts = compose_charts(analysis, design)
    for name, chart in charts.items():
        save_picture(chart, folder / f"{name}.png")
    document = compose(analysis, results, design, charts, preface)
    text = as_markdown(document)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(document))
    save_spreadsheets(analysis, results, folder)
    return text, brief(document)


def report_text(
    analysis: Analysis, results: Sequence[RunResult], design: ComparisonDesign, preface: tuple[Section, ...] = ()
) -> tuple[str, str]:
    """Return what :func:`write_report` returns, but write nothing."""
    document = compose(analysis, results, design, compose_charts(analysis, design), preface)
    return as_markdown(document), brief(document)
