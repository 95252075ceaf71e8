"""Writes a report as Markdown."""

from collections.abc import Iterable, Sequence

from sb3_pgx.pages.blocks import Block, Bullets, Code, Document, Note, Table
from sb3_pgx.pages.charts import Chart


def as_markdown(document: Document) -> str:
    """Return the whole report. Charts are links to the pictures in the same folder."""
    blocks = [f"# {document.title}", document.summary, *map(_block, document.lead)]
    for section in document.sections:
        blocks += [f"## {section.title}", *map(_block, section.blocks)]
    return "\n\n".join(blocks) + "\n"


def brief(document: Document) -> str:
    """Return the part that a terminal shows: summary, warnings and tables of results, without charts and explanations."""
    blocks = [document.title, document.summary, *map(_block, document.lead)]
    for section in document.sections:
        if section.brief:
            blocks += [section.title, *(_block(block) for block in section.blocks if not isinstance(block, Chart))]
    return "\n\n".join(blocks) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return "\n".join([_line(block.header), _line(["---"] * len(block.header)), *map(_line, block.rows)])
    if isinstance(block, Chart):
        return f"![{block.caption}]({block.name}.png)"
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    return block.text if isinstance(block, Note) else block


def _line(cells: Sequence[object] | Iterable[object]) -> str:
    escaped = (str(cell).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
