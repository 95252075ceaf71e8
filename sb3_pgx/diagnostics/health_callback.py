"""A callback that judges what the diagnostics measure: warnings in plain English while training, a report at its end."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_pgx.core.checks import check_choice, check_counts
from sb3_pgx.core.errors import warn
from sb3_pgx.diagnostics.conditions import Rule, Watch
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.diagnostics_callback import DiagnosticsCallback
from sb3_pgx.diagnostics.health_report import markdown, write_report
from sb3_pgx.diagnostics.measures import Measured
from sb3_pgx.diagnostics.metrics import check_metrics
from sb3_pgx.diagnostics.snapshot import as_it_acts

LOGGED_TO_FILES = (CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat)


class HealthWarning(UserWarning):
    """A rule of health is in alarm."""


class HealthError(RuntimeError):
    """A rule of health is in alarm, and ``on_alarm="raise"``."""


class HealthCallback(DiagnosticsCallback):
    """
    :class:`DiagnosticsCallback`, and rules that say when something is wrong, what it means, and one thing to change.

    Logs ``health/score``, the share of the rules with something to judge that are not in alarm, and ``health/alarms``, how
    many are. ``watches`` holds what became of each rule, :meth:`report` puts it in words.

    :param rules: what to look for; :data:`~sb3_pgx.diagnostics.DEFAULT_RULES` and what you add
    :param on_alarm: ``"warn"``, ``"stop"`` the training (and warn), or ``"raise"`` a :class:`HealthError`
    :param eval_env: environment with the true objective, not one that the training steps: the training's return must not rise
        while that of this one falls
    :param eval_every: of the measured updates, evaluate there after one in so many
    :param n_eval_episodes: episodes of an evaluation
    :param quiet: measured updates between two warnings of the same rule
    :param report_folder: where the report goes at the end; ``None``: into the folder that is logged to, if there is one. An
        earlier report there is kept, and the new one gets a number
    :param metrics: as in :class:`DiagnosticsCallback`, of which are logged; rules see all
    :param clip_range: likewise
    :param every: likewise
    :param costly_every: likewise
    :param verbose: as SB3's
    :raises ValueError: an argument makes no sense
    """

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
            raise ValueError(f"two rules are called {next(n for n in names if names.count(n) > 1)!r}; give each its own name")
        self.rules, self.on_alarm, self.quiet = tuple(rules), on_alarm, quiet
        self.eval_env = None if eval_env is None else BaseAlgorithm._wrap_env(eval_env)  # as SB3 wraps those of a training
        self.eval_every, self.n_eval_episodes = eval_every, n_eval_episodes
        self.report_folder = None if report_folder is None else Path(report_folder)
        self._needed |= {rule.metric for rule in self.rules}
        self._stopping = False
        self._begin_history()

    def _begin_history(self) -> None:
        super()._begin_history()
        self.watches = [Watch(rule) for rule in self.rules]
        self.warnings: list[str] = []
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._told: dict[str, int] = {}  # rule: measured update of its last warning

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._stopping = False
        if self.eval_env is not None and (unwrap_vec_normalize(self.training_env) is not None) != (
            unwrap_vec_normalize(self.eval_env) is not None
        ):
            raise ValueError(
                "training and evaluation environments have to be normalised alike: wrap both in VecNormalize (eval_env "
                "with training=False and norm_reward=False), or neither"
            )

    def _on_step(self) -> bool:
        return super()._on_step() and not self._stopping

    def measure_more(self) -> Measured:
        if self.eval_env is None or self._measured % self.eval_every:
            return {}
        if unwrap_vec_normalize(self.training_env) is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        with as_it_acts(self._model.policy):
            # As it acts in training, whose return this one is compared with. No warning that the environment has no Monitor.
            mean, _ = evaluate_policy(self._model, self.eval_env, self.n_eval_episodes, deterministic=False, warn=False)
        return {"true_return": mean}  # type: ignore[dict-item]  # a list where every episode is asked for

    def on_measured(self) -> None:
        self._extend_series()
        progress = 1.0 - self._model._current_progress_remaining
        alarmed = [watch.rule for watch in self.watches if watch.look(self._series, progress)]
        judged = [watch for watch in self.watches if watch.looked]
        if judged:
            self.logger.record("health/score", sum(not watch.in_alarm for watch in judged) / len(judged))
            self.logger.record("health/alarms", sum(watch.in_alarm for watch in judged))
        for rule in alarmed:
            self._alarm(rule)

    def _extend_series(self) -> None:
        numbers = self.history[-1]
        for name in numbers.keys() | self._series.keys():
            series = self._series[name]
            series.extend([math.nan] * (len(self.history) - 1 - len(series)))
            series.append(numbers.get(name, math.nan))

    def _alarm(self, rule: Rule) -> None:
        sentence = in_words(rule, self._series[rule.metric][-1])
        if rule.name not in self._told or self._measured - self._told[rule.name] >= self.quiet:
            self._told[rule.name] = self._measured
            self.warnings.append(f"update {self._rollouts}: {sentence}")
            if self.on_alarm != "raise":
                warn(self.warnings[-1], HealthWarning)
        if self.on_alarm == "stop":
            self._stopping = True
        if self.on_alarm == "raise":
            self._detach()
            self._report_to_folder()
            raise HealthError(f"update {self._rollouts}: {sentence}")

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
                path = write_report(folder, self._title, self.watches, steps, self._series, self.warnings)
            except OSError as error:  # the run must not end in an error for it
                self.logger.warn(f"the report on this run's health: {error}")
                return
            self.logger.info(f"the report on this run's health is in {path}")

    def report(self) -> str:
        """The verdict on every rule, as Markdown."""
        return markdown(self._title, self.watches, self._series, self.warnings)

    @property
    def _title(self) -> str:
        return f"Health of a training of {type(self.model).__name__}"


def in_words(rule: Rule, value: float) -> str:
    """What an alarm says: meaning, value, threshold, one thing to try, and a source."""
    source = f" ({rule.sources[0].says}: {rule.sources[0].where})" if rule.sources else ""
    return f"{rule.name}: {rule.sentence}. {rule.metric} is {value:.3g}, {rule.condition}{source}. Try this: {rule.remedy}."
