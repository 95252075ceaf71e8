"""What a claim is made of, so that each kind of claim can live in a module of its own."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from sb3_pgx.experiments.runs import versions


@dataclass(frozen=True)
class Settings:
    """How to check claims: ``workers`` runs at a time; runs are kept in ``output``, and finished ones are taken from there."""

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


class Claim(Protocol):
    """A claim that can be measured anew."""

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """What it takes: algorithms, as a comparison names them, each with an environment."""

    def __call__(self, settings: Settings) -> Verdict:
        """Trains and judges."""


def provenance(claim: Claim, command: str) -> dict[str, Any]:
    """What a record says about where it comes from."""
    env_ids = [env_id for _, env_id in claim.trains]
    return {"versions": versions(*env_ids), "date": date.today().isoformat(), "command": command}
