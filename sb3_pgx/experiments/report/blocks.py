"""The building blocks of a report. It is composed of them once, and then written as Markdown and as HTML."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Table:
    """A header, and rows with as many cells as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture, given by its file name without the suffix, and its caption."""

    name: str
    caption: str


@dataclass(frozen=True)
class Bullets:
    """A bullet list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A code block, such as a command."""

    text: str


Block: TypeAlias = str | Table | Picture | Bullets | Code


@dataclass(frozen=True)
class Section:
    """Blocks under a title. The terminal shows the ``brief`` sections only."""

    title: str
    blocks: tuple[Block, ...]
    brief: bool = False


@dataclass(frozen=True)
class Document:
    """A title, warnings that come first, and sections."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
