"""Writes a report as one self-contained web page, with charts that need no server and no network."""

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files

from sb3_pgx.pages.blocks import Block, Bullets, Cell, Code, Document, Note, Number, Section, Table
from sb3_pgx.pages.charts import Chart, Panel
from sb3_pgx.pages.plotly_figures import figure_of, plotly_library

SHORT = 36  # table cells of at most this many characters are not wrapped on a screen
ROW = 160  # characters of a wide screen; with many columns, only cells of their share of it are not wrapped
LONG = 60  # words in table cells of more characters may be broken on paper
HEAD = '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>'  # of every page


def as_html(document: Document) -> str:
    """Return the report as a web page."""
    lead = "\n".join(_block(block) for block in document.lead)
    drawn = "".join(f"<script>{script}</script>\n" for script in _scripts(document))
    return (
        f"{HEAD}{escape(document.title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # otherwise browsers request one from the server
        f"<style>{_file('page.css')}</style></head>\n<body>\n"
        f'<h1>{escape(document.title)}</h1>\n<p class="summary">{_lines(document.summary)}</p>\n{lead}\n'
        + "\n".join(map(_section, document.sections))
        + f"\n{drawn}</body></html>\n"
    )


def _scripts(document: Document) -> list[str]:
    return [*([plotly_library()] if document.charts else []), _file("page.js")]


def _file(name: str) -> str:
    return files("sb3_pgx.pages").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    inner = "\n".join(map(_block, section.blocks))
    if section.folded:
        return f"<details><summary>{escape(section.title)}</summary>\n{inner}\n</details>"
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{inner}\n</section>"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Chart):
        panels = "\n".join(map(_panel, block.panels))
        caption = f"<figcaption>{escape(block.caption)}</figcaption>"
        return f'<figure id="{escape(block.name)}">\n<div class="panels">\n{panels}\n</div>\n{caption}\n</figure>'
    if isinstance(block, Bullets):
        return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text)}</code></pre>"
    if isinstance(block, Note):
        return f'<p class="note">{_lines(block.text)}</p>'
    return f"<p>{_lines(block)}</p>"


def _panel(panel: Panel) -> str:
    mark = ' class="marked"' if getattr(panel, "marked", False) else ""
    title = f"<h3{mark}>{escape(panel.title)}</h3>" if panel.title else ""
    # "<" could end the script element.
    figure = json.dumps(figure_of(panel), separators=(",", ":")).replace("<", "\\u003c")
    return f'<div class="panel">{title}<div class="plot"></div><script type="application/json">{figure}</script></div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(cell)}</button></th>' for cell in table.header)
    rows = "\n".join(_row(row, table.header, i in table.marked) for i, row in enumerate(table.rows))
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'


def _row(cells: Iterable[Cell], header: tuple[str, ...], marked: bool) -> str:
    short = min(SHORT, ROW // len(header))
    inner = "".join(_cell(cell, name, short) for cell, name in zip(cells, header, strict=True))
    return f'<tr class="marked">{inner}</tr>' if marked else f"<tr>{inner}</tr>"


def _cell(cell: Cell, name: str, short: int) -> str:
    text = str(cell)
    kind = ' class="short"' if len(text) <= short else ' class="long"' if len(text) > LONG else ""
    value = f' data-value="{cell.value:.10g}"' if isinstance(cell, Number) else ""
    return f'<td{kind}{value} data-label="{escape(name)}">{escape(text)}</td>'


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")
