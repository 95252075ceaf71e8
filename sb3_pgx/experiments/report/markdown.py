"""Writes a report as Markdown."""

from collections.abc import Sequence

from sb3_pgx.experiments.report.blocks import Block, Bullets, Code, Document, Picture, Table


def as_markdown(document: Document) -> str:
    """Return the whole report. Pictures are links to the files in the same folder."""
    blocks = [f"# {document.title}", *map(_block, document.lead)]
    for section in document.sections:
        blocks += [f"## {section.title}", *map(_block, section.blocks)]
    return "\n\n".join(blocks) + "\n"


def brief(document: Document) -> str:
    """Return the part that a terminal shows: warnings and tables of results, without pictures and explanations."""
    blocks = [document.title, *map(_block, document.lead)]
    for section in document.sections:
        if section.brief:
            blocks += [section.title, *(_block(block) for block in section.blocks if isinstance(block, Table | str))]
    return "\n\n".join(blocks) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return "\n".join([_line(block.header), _line(["---"] * len(block.header)), *map(_line, block.rows)])
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.name}.png)"
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    return block


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
