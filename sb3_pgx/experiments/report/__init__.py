"""Writes the report of a comparison: a web page, Markdown, pictures and CSV files, all from the same numbers."""

from collections.abc import Sequence
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.analysis import Analysis
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.report.html import as_html
from sb3_pgx.experiments.report.markdown import as_markdown, brief
from sb3_pgx.experiments.report.pictures import as_svg, draw_pictures, save_figure
from sb3_pgx.experiments.report.sections import compose
from sb3_pgx.experiments.report.spreadsheets import save_spreadsheets
from sb3_pgx.experiments.runs import RunResult

__all__ = ["report_text", "write_report"]


def write_report(analysis: Analysis, results: Sequence[RunResult], design: ComparisonDesign, folder: Path) -> tuple[str, str]:
    """
    Write ``report.html``, ``report.md``, one PNG file per picture, and the CSV files.

    :param analysis: the numbers
    :param results: all runs
    :param design: the settings that the runs share
    :param folder: an existing folder
    :return: the report as Markdown, and its tables of results alone
    :raises OSError: a file cannot be written; the message names the path
    """
    figures = draw_pictures(analysis, design)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    document = compose(analysis, results, design, figures)
    text = as_markdown(document)
    write_text(folder / "report.md", text)
    page = as_html(document, {name: as_svg(figure) for name, figure in figures.items()})
    write_text(folder / "report.html", page)
    save_spreadsheets(analysis, results, folder)
    return text, brief(document)


def report_text(analysis: Analysis, results: Sequence[RunResult], design: ComparisonDesign) -> tuple[str, str]:
    """Return what :func:`write_report` returns, but write nothing."""
    document = compose(analysis, results, design, draw_pictures(analysis, design))
    return as_markdown(document), brief(document)
