"""A callback that applies rules of health to the diagnostics: warnings during the run, a report at its end."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_pgx.core.checks import check_choice, check_counts
from sb3_pgx.core.errors import warn
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.diagnostics_callback import DiagnosticsCallback
from sb3_pgx.diagnostics.health_report import health_report_text, write_health_report
from sb3_pgx.diagnostics.metrics import check_metrics
from sb3_pgx.diagnostics.rules import Rule, RuleState
from sb3_pgx.diagnostics.snapshot import without_side_effects
from sb3_pgx.diagnostics.update_metrics import Measured
from sb3_pgx.environments.evaluation import evaluate_policy

LOGGED_TO_FILES = (CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat)


class HealthWarning(UserWarning):
    """A rule of health is in alarm."""


class HealthError(RuntimeError):
    """A rule of health is in alarm and ``on_alarm`` is ``"raise"``."""


class HealthCallback(DiagnosticsCallback):
    """
    Measure updates like :class:`DiagnosticsCallback`, and say when something is wrong, what it means and what to change.

    A rule in alarm gives a :class:`HealthWarning` with the problem, the measured value, the threshold and one remedy. At the
    end of the run, a report with a verdict on every rule is written. The callback logs ``health/score``, the share of the
    rules not in alarm among those with enough data, and ``health/alarms``, the number of rules in alarm.

    ``rule_states`` holds the state of each rule, and ``warnings`` the warnings so far. :meth:`report` returns the report.

    :param rules: rules to apply, such as ``[*DEFAULT_RULES, my_rule]``
    :param on_alarm: ``"warn"``, ``"stop"`` to warn and stop the run, or ``"raise"`` to raise a :class:`HealthError`
    :param eval_env: environment with the true objective, to detect that the policy exploits the training reward. It must not
        be the training environment, and it must be wrapped in ``VecNormalize`` if and only if that is
    :param eval_every: evaluate in ``eval_env`` at one in ``eval_every`` of the measured updates
    :param n_eval_episodes: number of episodes per evaluation
    :param quiet: minimum number of measured updates between two warnings of the same rule
    :param report_folder: folder for the report (``health.md``, ``health.html``, ``health.png``); ``None`` takes the folder of
        the logger, if it has one. An earlier report is kept, and the new one gets a number
    :param metrics: names of the metrics to log; ``None`` logs all of them. Rules use all metrics, logged or not
    :param clip_range: ε of ``clip_fraction``, greater than 0; ``None`` takes the algorithm's clip range, or 0.2 if it has none
    :param every: measure one in ``every`` of the updates that will be logged; larger values cost less time
    :param costly_every: measure the gradient noise scale and the dead units at one in ``costly_every`` of the measured updates
    :param verbose: verbosity, as in SB3's callbacks
    :raises ValueError: an argument is invalid
    """

    only_reads = True  # not of subclasses, see core/deferred_values.py

    def __init__(
        self,
        rules: Sequence[Rule] = DEFAULT_RULES,
        on_alarm: str = "warn",
        eval_env: gym.Env | VecEnv | None = None,
        eval_every: int = 10,
        n_eval_episodes: int = 5,
        quiet: int = 20,
        report_folder: str | Path | None = None,
        metrics: Sequence[str] | None = None,
        clip_range: float | None = None,
        every: int = 1,
        costly_every: int = 20,
        verbose: int = 0,
    ):
        super().__init__(metrics, clip_range, every, costly_every, verbose)
        check_choice(("warn", "stop", "raise"), on_alarm=on_alarm)
        check_counts(eval_every=eval_every, n_eval_episodes=n_eval_episodes, quiet=quiet)
        check_metrics([rule.metric for rule in rules])
        check_metrics([other for rule in rules if (other := getattr(rule.condition, "other", None))])
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two rules have the name {next(n for n in names if names.count(n) > 1)!r}; give each its own name"
            )
        self.rules, self.on_alarm, self.quiet = tuple(rules), on_alarm, quiet
        self.eval_env = None if eval_env is None else BaseAlgorithm._wrap_env(eval_env)
        self.eval_every, self.n_eval_episodes = eval_every, n_eval_episodes
        self.report_folder = None if report_folder is None else Path(report_folder)
        self._needed |= {rule.metric for rule in self.rules}
        self._stopping = False
        self.begin_history()

    def begin_history(self) -> None:
        """Forget the history, the state of the rules and the warnings of another model."""
        super().begin_history()
        self.rule_states = [RuleState(rule) for rule in self.rules]
        self.warnings: list[str] = []
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._last_warning: dict[str, int] = {}  # measured update of each rule's last warning

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._stopping = False
        if self.eval_env is not None and (unwrap_vec_normalize(self.training_env) is not None) != (
            unwrap_vec_normalize(self.eval_env) is not None
        ):
            raise ValueError(
                "only one of the training environment and eval_env is wrapped in VecNormalize: wrap both (eval_env with "
                "training=False and norm_reward=False) or neither"
            )

    def _on_step(self) -> bool:
        return super()._on_step() and not self._stopping

    def measure_more(self) -> Measured:
        """Return the mean return in ``eval_env``, if this update is due for an evaluation."""
        if self.eval_env is None or self._measured % self.eval_every:
            return {}
        if unwrap_vec_normalize(self.training_env) is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        with without_side_effects(self._model.policy):
            # With sampled actions, because the result is compared with the training return.
            mean, _ = evaluate_policy(self._model, self.eval_env, self.n_eval_episodes, deterministic=False, warn=False)
        return {"true_return": mean}

    def on_measured(self) -> None:
        """Apply the rules to the newest metrics, log their score, and warn about those in alarm."""
        self._extend_series()
        alarmed = [state.rule for state in self.rule_states if state.update(self._series, self.progress)]
        judged = [state for state in self.rule_states if state.judged]
        if judged:
            self.logger.record("health/score", sum(not state.in_alarm for state in judged) / len(judged))
            self.logger.record("health/alarms", sum(state.in_alarm for state in judged))
        for rule in alarmed:
            self._alarm(rule)

    def _extend_series(self) -> None:
        numbers = self.history[-1]
        for name in numbers.keys() | self._series.keys():
            series = self._series[name]
            series.extend([math.nan] * (len(self.history) - 1 - len(series)))
            series.append(numbers.get(name, math.nan))

    def _alarm(self, rule: Rule) -> None:
        message = alarm_message(rule, self._series[rule.metric][-1])
        place = f"{'gradient step' if self._is_off_policy else 'update'} {self.history[-1]['update']}"
        if rule.name not in self._last_warning or self._measured - self._last_warning[rule.name] >= self.quiet:
            self._last_warning[rule.name] = self._measured
            self.warnings.append(f"{place}: {message}")
            if self.on_alarm != "raise":
                warn(self.warnings[-1], HealthWarning)
        if self.on_alarm == "stop":
            self._stopping = True
        if self.on_alarm == "raise":
            self._dump()  # the algorithm will not log this update any more
            self._detach()
            self._report_to_folder()
            raise HealthError(f"{place}: {message}")

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self._report_to_folder()

    def _report_to_folder(self) -> None:
        folder = self.report_folder
        if folder is None and self.logger.dir and any(isinstance(x, LOGGED_TO_FILES) for x in self.logger.output_formats):
            folder = Path(self.logger.dir)
        if folder is not None:
            steps = self._series["timesteps"]
            try:
                path = write_health_report(folder, self._title, self.rule_states, steps, self._series, self.warnings)
            except OSError as error:  # a missing report must not end the run
                self.logger.warn(f"the health report could not be written: {error}")
                return
            self.logger.info(f"health report: {path}")

    def report(self) -> str:
        """Return the report with a verdict on every rule, as Markdown."""
        return health_report_text(self._title, self.rule_states, self._series, self.warnings)

    @property
    def series(self) -> Mapping[str, Sequence[float]]:
        """The metrics of each measured update so far, by metric; NaN where one is unknown."""
        return self._series

    @property
    def _title(self) -> str:
        return f"Health report: {type(self.model).__name__}"


def alarm_message(rule: Rule, value: float) -> str:
    """Return the text of an alarm: problem, meaning, value, threshold, source and remedy."""
    source = f" ({rule.sources[0].reference}: {rule.sources[0].statement})" if rule.sources else ""
    return f"{rule.name}: {rule.meaning}. {rule.metric} is {value:.3g}, {rule.condition}{source}. Try this: {rule.remedy}."
