"""Writes a report as one self-contained web page: no scripts, no server, no network."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from sb3_pgx.experiments.report.blocks import Block, Bullets, Code, Document, Picture, Table

SHORT = 36  # table cells of at most this many characters are not wrapped
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2126; background: #fff;
  max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid #d9dde2; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; display: block; overflow-x: auto; max-width: 100%; }
th, td { text-align: left; padding: .38rem .9rem .38rem 0; vertical-align: top; border-bottom: 1px solid #e6e9ed;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; border-bottom: 2px solid #9aa3ad; }
td.short { white-space: nowrap; }
tbody tr:hover { background: #f5f7f9; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { font-size: .88rem; color: #555e68; max-width: 50rem; }
pre { background: #f3f5f7; padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; font-size: .86rem;
  white-space: pre-wrap; }
.lead { border-left: 4px solid #E69F00; background: #fdf8ee; padding: .3rem 1rem; margin: 1rem 0; }
li { margin: .3rem 0; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


def as_html(document: Document, pictures: Mapping[str, str]) -> str:
    """
    Return the report as HTML.

    :param document: the report
    :param pictures: SVG texts by name
    """
    lead = f'<div class="lead">\n{_blocks(document.lead, pictures)}\n</div>' if document.lead else ""
    sections = [
        f"<section>\n<h2>{escape(section.title)}</h2>\n{_blocks(section.blocks, pictures)}\n</section>"
        for section in document.sections
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # otherwise browsers request one from the server
            f"<title>{escape(document.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{escape(document.title)}</h1>",
            lead,
            *sections,
            "</body>",
            "</html>",
            "",
        ]
    )


def _blocks(blocks: tuple[Block, ...], pictures: Mapping[str, str]) -> str:
    return "\n".join(_block(block, pictures) for block in blocks)


def _block(block: Block, pictures: Mapping[str, str]) -> str:
    if isinstance(block, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
        rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    if isinstance(block, Picture):
        # As a separate image, so that the identifiers inside of two pictures do not clash.
        data = b64encode(pictures[block.name].encode()).decode()
        image = f'<img id="{block.name}" alt="{escape(block.caption)}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure>\n{image}\n<figcaption>{escape(block.caption)}</figcaption>\n</figure>"
    if isinstance(block, Bullets):
        return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text)}</code></pre>"
    return f"<p>{escape(block)}</p>"


def _cell(text: str) -> str:
    kind = ' class="short"' if len(text) <= SHORT else ""
    return f"<td{kind}>{escape(text)}</td>"
