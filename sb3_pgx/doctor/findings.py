"""What an examination finds: one thing that was seen, how bad it is, and what to do about it."""

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """``FAULT``: it breaks training; ``WARNING``: it is likely to; ``NOTE``: worth knowing."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """``name`` is fixed, for tests and filters; ``seen`` holds the values, ``source`` who says that it matters."""

    name: str
    severity: Severity
    seen: str
    remedy: str
    source: str

    @property
    def is_problem(self) -> bool:
        """Whether it is more than a note."""
        return self.severity is not Severity.NOTE
