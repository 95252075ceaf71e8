"""Hashes of the code that a timing depends on. A timing is stale if its hash is no longer today's."""

from dataclasses import asdict

from benchmarks.dependencies import files_that_define
from benchmarks.provenance import ROOT, code_hash
from benchmarks.speed.cases import ADAPTERS, DIAGNOSTICS, Case, contender_class

ALL_CODE = ("sb3_pgx", "benchmarks/speed")
MEASURED_BY = ("benchmarks/speed/measure.py", "sb3_pgx/diagnostics/stopwatch.py")
AIMS = ("name", "peers", "goals", "acting_goal", "callback_goal")  # of a case; they change no number


def hash_of_case(case: Case) -> str:
    """Return today's hash of a case: its arguments, our algorithms in it with all that they import, and the measuring."""
    contenders = [case.algorithm, *case.peers]
    ours = [contender_class(name) for name in contenders if ":" not in name or name in ADAPTERS]
    starts = files_that_define(ours, [case.env_id], ROOT)
    starts += ["sb3_pgx/diagnostics"] if any(name.endswith(DIAGNOSTICS) for name in contenders) else []
    settings = {name: value for name, value in asdict(case).items() if name not in AIMS}
    return code_hash([*MEASURED_BY, *starts], settings)


def hash_of_all() -> str:
    """Return today's hash of the whole package and of the benchmarks of speed."""
    return code_hash(ALL_CODE)
