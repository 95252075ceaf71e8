"""The building blocks of a report. It is composed of them once, and then written as a web page and as Markdown."""

from dataclasses import dataclass
from typing import TypeAlias

from sb3_pgx.pages.charts import Chart


@dataclass(frozen=True)
class Number:
    """
    A table cell that sorts by a number and shows a text.

    :param value: the number; NaN sorts last
    :param text: what the reader sees
    """

    value: float
    text: str

    def __str__(self) -> str:
        return self.text


Cell: TypeAlias = str | Number


@dataclass(frozen=True)
class Table:
    """
    A header, and rows with as many cells as the header.

    :param marked: indices of the rows that are marked, such as alarms
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Bullets:
    """A bullet list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A code block, such as a command."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that stands out: a warning that affects how all else is read."""

    text: str


Block: TypeAlias = str | Table | Chart | Bullets | Code | Note


@dataclass(frozen=True)
class Section:
    """
    Blocks under a title.

    :param brief: whether a terminal shows the section, too
    :param folded: whether a web page shows it only after a click
    """

    title: str
    blocks: tuple[Block, ...]
    brief: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """
    A report.

    :param title: title of the report
    :param summary: the answer in one or a few sentences, which comes first
    :param lead: what follows the summary: warnings that affect how all else is read
    :param sections: everything else, in the order of reading
    """

    title: str
    summary: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]

    @property
    def charts(self) -> list[Chart]:
        """All charts, in the order of reading."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Chart)]
