"""What a report is made of, so that its content is written once for Markdown and for HTML."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture by its name among those of the report, with what it shows in words."""

    name: str
    caption: str


@dataclass(frozen=True)
class Bullets:
    """Sentences, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Something to type, or to read letter by letter."""

    text: str


Block: TypeAlias = str | Table | Picture | Bullets | Code


@dataclass(frozen=True)
class Section:
    """Blocks under a title; ``brief`` ones are what the terminal shows."""

    title: str
    blocks: tuple[Block, ...]
    brief: bool = False


@dataclass(frozen=True)
class Document:
    """A title, what has to be known first, and sections."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
