"""What examinations found, as text for a terminal."""

from collections.abc import Sequence

import numpy as np

from sb3_pgx.diagnostics.health_report import headline
from sb3_pgx.doctor.algorithm import FAILED, SKIPPED, ProbeResult
from sb3_pgx.doctor.dry_run import EnvironmentExamination
from sb3_pgx.doctor.findings import Severity
from sb3_pgx.doctor.log import LogExamination

HEADER = ("probe", "asked", "measured", "expected", "")


def environment_text(examination: EnvironmentExamination) -> str:
    """The dry run in a line, and each finding with its remedy and its source."""
    record, findings = examination.record, examination.findings
    lengths = record.episode_lengths()
    span = sorted({int(lengths.min()), int(lengths.max())}) if len(lengths) else []
    ended = f"{len(lengths)} episodes of {' to '.join(map(str, span))} steps" if span else "no episode ended"
    lines = [f"{examination.env_id}: {len(record.rewards)} random steps, {ended}"]
    for finding in sorted(findings, key=lambda f: list(Severity).index(f.severity)):
        lines.append(f"{finding.severity.value:8} {finding.name}: {finding.seen}")
        if finding.remedy:
            lines.append(f"{'':8} → {finding.remedy} ({finding.source})")
    if not any(finding.is_problem for finding in findings):
        lines.append("no faults, no warnings")
    return "\n".join(lines)


def log_text(examination: LogExamination) -> str:
    """A line for each rule, and what to change for each one that was in alarm."""
    lines = [headline(examination.watches)]
    for watch in examination.alarmed:
        rule, values = watch.rule, examination.series[watch.rule.metric]
        lines.append(f"alarm    {rule.name}: {rule.sentence}")
        span = f"it was {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
        lines.append(f"{'':8} {rule.metric} {rule.condition} at {watch.alarms} of {watch.looked} updates; {span}")
        lines.append(f"{'':8} → {rule.remedy}")
    silent = [watch.rule.name for watch in examination.watches if not watch.known]
    if silent:
        lines.append(f"not measured: {', '.join(silent)}. DiagnosticsCallback logs what they need")
    return "\n".join(lines)


def algorithm_text(results: Sequence[ProbeResult]) -> str:
    """A table with a line for each answer, and a sentence for each probe that failed."""
    rows = [HEADER]
    for result in results:
        answers = [(answer.asked, f"{answer.measured:.3g}", answer.expected) for answer in result.answers]
        if result.outcome == SKIPPED:
            answers = [(result.sentence, "", "")]
        for i, answer in enumerate(answers or [("", "", "")]):
            rows.append((result.name, *answer, result.outcome) if i == 0 else ("", *answer, ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = [result for result in results if result.outcome == FAILED]
    return "\n".join([*lines, *(f"{result.name}: {result.sentence}" for result in failed)])
