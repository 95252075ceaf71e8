"""Examine the log of a finished run with the rules of health."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_pgx.diagnostics import DEFAULT_RULES, Rule
from sb3_pgx.diagnostics.progress_file import read_progress
from sb3_pgx.diagnostics.rules import RuleState, apply_rules


@dataclass(frozen=True)
class LogExamination:
    """
    The result of the rules on a log.

    :param states: the final state of each rule
    :param series: the numbers in the log, by metric
    """

    states: list[RuleState]
    series: dict[str, list[float]]

    @property
    def alarmed(self) -> list[RuleState]:
        """The rules that were in alarm, the most frequent alarms first."""
        return sorted((state for state in self.states if state.alarms), key=lambda state: -state.alarms)


def examine_log(folder: Path, rules: Sequence[Rule] = DEFAULT_RULES) -> LogExamination:
    """
    Apply rules to the log of a finished run.

    :param folder: folder with the run's ``progress.csv``. Logs of SB3 alone have numbers for a few rules only; those of
        :class:`~sb3_pgx.diagnostics.DiagnosticsCallback` have numbers for all
    :param rules: rules to apply
    :return: the state of each rule and the numbers in the log
    :raises ValueError: there is no log, or it holds no metric that rules use
    """
    _, series = read_progress(folder)
    return LogExamination(apply_rules(rules, series), series)
