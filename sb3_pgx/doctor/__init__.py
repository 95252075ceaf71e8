"""Examines environments by a dry run, and algorithms on environments whose answers are known."""

from sb3_pgx.doctor.algorithm import ProbeResult, examine_algorithm
from sb3_pgx.doctor.dry_run import EnvironmentExamination, examine_environment
from sb3_pgx.doctor.environment import check_record
from sb3_pgx.doctor.findings import Finding, Severity
from sb3_pgx.doctor.record import DryRun

__all__ = [
    "DryRun",
    "EnvironmentExamination",
    "Finding",
    "ProbeResult",
    "Severity",
    "check_record",
    "examine_algorithm",
    "examine_environment",
]
