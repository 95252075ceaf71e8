"""Find out why training fails: examine an environment, an algorithm, or the log of a run."""

from sb3_pgx.doctor.algorithm import ProbeResult, examine_algorithm
from sb3_pgx.doctor.dry_run import DryRun
from sb3_pgx.doctor.environment import EnvironmentExamination, examine_environment
from sb3_pgx.doctor.environment_checks import Finding, Severity, check_dry_run
from sb3_pgx.doctor.log import LogExamination, examine_log

__all__ = [
    "DryRun",
    "EnvironmentExamination",
    "Finding",
    "LogExamination",
    "ProbeResult",
    "Severity",
    "check_dry_run",
    "examine_algorithm",
    "examine_environment",
    "examine_log",
]
