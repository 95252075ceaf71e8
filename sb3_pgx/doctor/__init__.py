"""Examines environments by a dry run, algorithms on environments whose answers are known, and what a training logged."""

from sb3_pgx.doctor.algorithm import ProbeResult, examine_algorithm
from sb3_pgx.doctor.dry_run import EnvironmentExamination, examine_environment
from sb3_pgx.doctor.environment import check_record
from sb3_pgx.doctor.findings import Finding, Severity
from sb3_pgx.doctor.log import LogExamination, examine_log
from sb3_pgx.doctor.record import DryRun

__all__ = [
    "DryRun",
    "EnvironmentExamination",
    "Finding",
    "LogExamination",
    "ProbeResult",
    "Severity",
    "check_record",
    "examine_algorithm",
    "examine_environment",
    "examine_log",
]
