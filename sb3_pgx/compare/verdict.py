"""What a claim is made of, so that each kind of claim can live in a module of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How to check claims: ``workers`` runs at a time, results of single runs into ``output`` if that is given."""

    command: str
    workers: int | None = None
    configs: Path | None = None
    output: Path | None = None
    progress: bool = True


@dataclass(frozen=True)
class Verdict:
    """
    What came of a claim.

    ``key`` names it among the claims of its algorithm; ``lines`` tell a person what was measured; ``record`` is what is
    kept of it in a JSON file.
    """

    key: str
    statement: str
    passed: bool
    lines: tuple[str, ...]
    record: dict[str, Any]


Check = Callable[[Settings], Verdict]
