"""A comparison as a person reads it: a page, Markdown, pictures and tables, all from the same numbers."""

from collections.abc import Sequence
from pathlib import Path

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.findings import Findings
from sb3_pgx.experiments.report.content import compose
from sb3_pgx.experiments.report.html import html
from sb3_pgx.experiments.report.markdown import brief, markdown
from sb3_pgx.experiments.report.pictures import as_svg, draw, save_png
from sb3_pgx.experiments.report.spreadsheets import save_spreadsheets
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.setting import Setting

__all__ = ["report_text", "write_report"]


def write_report(findings: Findings, results: Sequence[RunResult], setting: Setting, folder: Path) -> tuple[str, str]:
    """
    Write ``report.html``, ``report.md``, a PNG file for each picture, and the CSV files.

    :param findings: the numbers
    :param results: all runs
    :param setting: what they share
    :param folder: that exists
    :return: the report as Markdown, and its tables of results alone
    :raises OSError: a file cannot be written; one sentence that names the path
    """
    figures = draw(findings, setting)
    for name, figure in figures.items():
        save_png(figure, folder / f"{name}.png")
    document = compose(findings, results, setting, figures)
    text = markdown(document)
    write_text(folder / "report.md", text)
    page = html(document, {name: as_svg(figure) for name, figure in figures.items()})
    write_text(folder / "report.html", page)
    save_spreadsheets(findings, results, folder)
    return text, brief(document)


def report_text(findings: Findings, results: Sequence[RunResult], setting: Setting) -> tuple[str, str]:
    """Return what :func:`write_report` does, and write nothing."""
    document = compose(findings, results, setting, draw(findings, setting))
    return markdown(document), brief(document)
