"""Turn the results of examinations into text for a terminal."""

from collections.abc import Sequence

import numpy as np

from sb3_pgx.diagnostics.verdicts import summary
from sb3_pgx.doctor.algorithm import FAILED, SKIPPED, ProbeResult
from sb3_pgx.doctor.environment import EnvironmentExamination
from sb3_pgx.doctor.environment_checks import Severity
from sb3_pgx.doctor.log import LogExamination

HEADER = ("probe", "asked", "measured", "expected", "")


def environment_text(examination: EnvironmentExamination) -> str:
    """Return one line about the dry run, and each finding with its remedy and source."""
    dry_run, findings = examination.dry_run, examination.findings
    lengths = dry_run.episode_lengths()
    span = sorted({int(lengths.min()), int(lengths.max())}) if len(lengths) else []
    ended = f"{len(lengths)} episodes of {' to '.join(map(str, span))} steps" if span else "no episode ended"
    lines = [f"{examination.env_id}: {len(dry_run.rewards)} random steps, {ended}"]
    for finding in sorted(findings, key=lambda f: list(Severity).index(f.severity)):
        lines.append(f"{finding.severity.value:8} {finding.name}: {finding.observed}")
        if finding.remedy:
            lines.append(f"{'':8} → {finding.remedy} ({finding.source})")
    if not any(finding.is_problem for finding in findings):
        lines.append("no faults, no warnings")
    return "\n".join(lines)


def log_text(examination: LogExamination) -> str:
    """Return one sentence about all rules, and each alarm with its meaning, its numbers and its remedy."""
    lines = [summary(examination.states)]
    for state in examination.alarmed:
        rule, values = state.rule, examination.series[state.rule.metric]
        lines.append(f"alarm    {rule.name}: {rule.meaning}")
        span = f"its range was {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
        lines.append(f"{'':8} {rule.metric} {rule.condition} at {state.alarms} of {state.judged} updates; {span}")
        lines.append(f"{'':8} → {rule.remedy}")
    missing = [state.rule.name for state in examination.states if not state.measured]
    if missing:
        lines.append(f"not measured: {', '.join(missing)}. Train with DiagnosticsCallback to log the metrics of these rules")
    return "\n".join(lines)


def algorithm_text(results: Sequence[ProbeResult]) -> str:
    """Return a table with one line per answer, and an explanation of each failure."""
    rows = [HEADER]
    for result in results:
        answers = [(answer.asked, f"{answer.measured:.3g}", answer.expected) for answer in result.answers]
        if result.outcome == SKIPPED:
            answers = [(result.explanation, "", "")]
        for i, answer in enumerate(answers or [("", "", "")]):
            rows.append((result.name, *answer, result.outcome) if i == 0 else ("", *answer, ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = [result for result in results if result.outcome == FAILED]
    return "\n".join([*lines, *(f"{result.name}: {result.explanation}" for result in failed)])
