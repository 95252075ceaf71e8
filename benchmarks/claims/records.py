"""Records of measured claims: one list per subject. Records are appended, never replaced."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.analysis import Judgement, judge
from benchmarks.claims.draws import Draw
from benchmarks.claims.protocol import KINDS, Claim
from benchmarks.claims.training_runs import contenders_of
from benchmarks.dependencies import files_that_define
from benchmarks.provenance import ROOT, code_hash
from sb3_pgx.experiments.peers import resolve_peer
from sb3_pgx.experiments.pool import json_round_trip, write_json

Record = dict[str, Any]
RUNS = "sb3_pgx/experiments/runs.py"  # trains and evaluates a run
MEASURED_BY = {
    "false alarms": ("sb3_pgx/diagnostics", "benchmarks/claims/false_alarms.py"),
    "gradient variance": ("benchmarks/claims/gradient_variance.py",),
}


@dataclass(frozen=True)
class RecordProblem:
    """A claim whose record is missing, stale or inconsistent."""

    claim: Claim
    sentence: str


def read_records(path: Path) -> list[Record]:
    """Return the records of a subject, including superseded ones; empty if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def add_record(path: Path, record: Record, claim: Claim) -> None:
    """
    Append a record. Records of earlier versions of the claim stay in the file, marked as superseded with the claim's reason.

    :param path: file of the subject
    :param record: result of :func:`make_record`
    :param claim: the claim that was measured
    :raises ValueError: a record has used these seeds already
    """
    check_seeds_are_unused(path, claim)
    reasons = {earlier.version: earlier.reason for earlier in claim.earlier}
    records = read_records(path)
    for old in records:
        if old["name"] == claim.name and "superseded" not in old:
            old["superseded"] = reasons[old["version"]]
    write_json(path, [*records, record])


def check_seeds_are_unused(path: Path, claim: Claim) -> None:
    """
    Check that no record has used the seeds of a claim. Each seed is used once, whatever its result.

    :raises ValueError: a record has used a seed of this claim
    """
    for record in read_records(path):
        if set(claim.seeds) & set(record.get("seeds", ())):
            raise ValueError(
                f"{claim.subject}.yml, {claim.name!r}: the record of {record['date']} has used these seeds, and each seed is "
                "used once; raise the version, give it new seeds, and list the old ones under 'earlier' with the reason"
            )


def make_record(
    claim: Claim,
    draws: Sequence[Draw],
    judgement: Judgement,
    code: str,
    source: Mapping[str, Any],
    configs: Path | None = None,
) -> Record:
    """
    Return the record of a measured claim, with everything that is published about it.

    :param claim: the claim
    :param draws: all draws; failed ones come first in the record
    :param judgement: result of :func:`~benchmarks.claims.analysis.judge` for these draws
    :param code: hash of the code that training depended on
    :param source: commit, machine, versions, date, command, wall-clock
    :param configs: folder of hyperparameter files; default: this repository's
    """
    return json_round_trip(
        {
            "name": claim.name,
            "version": claim.version,
            "claim": claim.statement,
            "verdict": judgement.verdict,
            "holds": judgement.verdict == KINDS[claim.kind].claimed,
            "reason": judgement.reason,
            "estimates": [asdict(estimate) for estimate in judgement.estimates],
            "seeds": claim.seeds,
            "protocol": {key: value for key, value in asdict(claim).items() if key not in ("subject", "name", "version")},
            "code_hash": code,
            **source,
            "hyperparameters": settings_of(claim, configs),
            "draws": [asdict(draw) for draw in sorted(draws, key=lambda draw: draw.error is None)],
        }
    )


def settings_of(claim: Claim, configs: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the settings of each contender and environment; empty for a claim that trains with a class's defaults."""
    settings: dict[str, dict[str, Any]] = {}
    if claim.kind != "gradient variance":
        for label, env_id, _, config in contenders_of(claim, configs):
            settings.setdefault(label, {})[env_id] = asdict(config)
    return settings


def code_hash_of(claim: Claim, configs: Path | None = None) -> str:
    """Return today's hash of the code and the settings that a claim's runs depend on. Peers' code is not hashed."""
    classes = [resolve_peer(name).algorithm for name in {claim.algorithm, *(name for name, _ in claim.trains)}]
    ours = files_that_define(classes, claim.environments, ROOT)
    return code_hash([RUNS, *ours, *MEASURED_BY.get(claim.kind, ())], settings_of(claim, configs))


def current_record(claim: Claim, records: Sequence[Record]) -> Record | None:
    """Return the record of this version of the claim, or ``None`` if it has not been measured."""
    found = [r for r in records if (r["name"], r["version"]) == (claim.name, claim.version) and "superseded" not in r]
    return found[-1] if found else None


def find_problem(claim: Claim, records: Sequence[Record], configs: Path | None = None) -> RecordProblem | None:
    """
    Compare a claim with its record.

    :return: the problem: the record is missing or stale, the protocol has changed since, or the verdict does not follow from
        the draws; ``None`` if there is no problem
    """
    record = current_record(claim, records)
    if record is None:
        return RecordProblem(claim, "missing: it has not been measured")
    today = code_hash_of(claim, configs)
    if record["code_hash"] != today:
        return RecordProblem(claim, f"stale: measured with code {record['code_hash']}, and today's is {today}")
    planned = json_round_trip(
        {key: value for key, value in asdict(claim).items() if key not in ("subject", "name", "version")}
    )
    if changed := [key for key in planned if record["protocol"].get(key) != planned[key]]:
        return RecordProblem(claim, f"changed after it was measured: {', '.join(changed)}; raise its version")
    verdict = judge(claim, [Draw(**draw) for draw in record["draws"]]).verdict
    if verdict != record["verdict"]:
        return RecordProblem(claim, f"altered: its draws say {verdict}, and the record says {record['verdict']}")
    return None
