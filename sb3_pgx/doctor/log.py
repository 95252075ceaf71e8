"""Applies the rules of health to what a finished training has logged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_pgx.diagnostics import DEFAULT_RULES, Rule
from sb3_pgx.diagnostics.conditions import Watch
from sb3_pgx.diagnostics.progress_file import judge, read_progress


@dataclass(frozen=True)
class LogExamination:
    """What the rules say of a log, and the series that they read."""

    watches: list[Watch]
    series: dict[str, list[float]]

    @property
    def alarmed(self) -> list[Watch]:
        """The rules that were in alarm, those first that were most often."""
        return sorted((watch for watch in self.watches if watch.alarms), key=lambda watch: -watch.alarms)


def examine_log(folder: Path, rules: Sequence[Rule] = DEFAULT_RULES) -> LogExamination:
    """
    :param folder: with the ``progress.csv`` of a run, best one with :class:`~sb3_pgx.diagnostics.DiagnosticsCallback`
    :param rules: to apply
    :return: what they say
    :raises ValueError: there is no log, or nothing in it that can be judged
    """
    _, series = read_progress(folder)
    return LogExamination(judge(tuple(rules), series), series)
