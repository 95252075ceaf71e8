"""A callback that measures updates from the outside: it compares the policy before and after each on the whole rollout."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import safe_mean

from sb3_pgx.core.checks import check_counts
from sb3_pgx.core.distributions import family_of
from sb3_pgx.core.recurrent_evaluation import has_recurrent_critic, is_recurrent
from sb3_pgx.core.rollout import Batch
from sb3_pgx.diagnostics.dead_units import measure_dead_units
from sb3_pgx.diagnostics.episodes import EpisodeTracker, ObservationRange
from sb3_pgx.diagnostics.gradients import GradientNorms, current_coefficient, noise_scale_metrics
from sb3_pgx.diagnostics.metrics import METRICS, check_metrics
from sb3_pgx.diagnostics.off_policy_metrics import MEASURABLE, MemoryMeter
from sb3_pgx.diagnostics.snapshot import (
    Snapshot,
    evaluate_batch,
    first_step_log_prob,
    take_snapshot,
    values_without_memory,
    without_side_effects,
)
from sb3_pgx.diagnostics.stopwatch import ACTING, MEASURING, UPDATE, RunTimer
from sb3_pgx.diagnostics.update_metrics import (
    Measured,
    clipped_action_metrics,
    critic_metrics,
    exploration_metrics,
    gradient_metrics,
    initial_ratio_metrics,
    kl_metrics,
    memory_metrics,
    parameter_metrics,
    ratio_metrics,
    summary_metrics,
)
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, ceil_div
from sb3_pgx.stages.report import read

MEASURED_GRADIENTS = 16  # approximate number of gradient norms per update of SB3's algorithms
PREFIX = "diagnostics/"
DEFAULT_CLIP_RANGE = 0.2  # that of PPO, for algorithms without a clip range


class DiagnosticsCallback(BaseCallback):
    """
    Measure updates and log ``diagnostics/…``; :data:`~sb3_pgx.diagnostics.METRICS` says what each number means.

    It works for every algorithm with SB3's on-policy interface: those of this package, also with action masks or a recurrent
    policy, SB3's ``PPO`` and ``A2C``, and sb3-contrib's ``TRPO``. It compares the policy at the end of a rollout with the
    policy after the update, over all rows of the rollout. It measures the updates that will be logged (all updates if
    ``log_interval`` is ``None``) and the last one. SB3's algorithms do not log their last update, so the callback logs it at
    the end of the run. This package's algorithms log their last update instead of the one before, so the callback logs that
    one in a row of its own.

    It also works for ``SAC``, ``TD3`` and ``DDPG`` of this package and of SB3, and for ``D4PG`` and ``SoftQLearning``. It
    measures them on a sample of the replay memory whenever an episode ends at which the log is written (any episode if
    ``log_interval`` is ``None``), from the first gradient step on, and at the end of the run.

    The callback changes nothing: with the same seed, the run is bit for bit the same with and without it.

    ``history`` holds one dictionary per measured update with all metrics, logged or not, and with ``timesteps`` and
    ``update``, the number of the update (off-policy: of gradient steps).

    :param metrics: names of the metrics to log; ``None`` logs all of them
    :param clip_range: ε of ``clip_fraction``, greater than 0; ``None`` takes the algorithm's clip range, or 0.2 if it has none
    :param every: measure one in ``every`` of the updates that will be logged; larger values cost less time
    :param costly_every: measure the gradient noise scale and the dead units at one in ``costly_every`` of the measured updates
    :param verbose: verbosity, as in SB3's callbacks
    :raises ValueError: an argument is invalid, or (when the run starts) the algorithm cannot be measured
    """

    only_reads = True  # not of subclasses, see core/deferred_values.py

    def __init__(
        self,
        metrics: Sequence[str] | None = None,
        clip_range: float | None = None,
        every: int = 1,
        costly_every: int = 20,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        check_metrics(metrics or ())
        check_counts(every=every, costly_every=costly_every)
        if clip_range is not None and not 0 < clip_range < math.inf:
            raise ValueError(f"clip_range={clip_range} must be positive and finite; None takes the algorithm's own")
        self.metrics = tuple(METRICS if metrics is None else metrics)
        self._needed = set(self.metrics)
        self.clip_range, self.every, self.costly_every = clip_range, every, costly_every
        self.history: list[dict[str, float]] = []
        self._timer = RunTimer()
        self._measured_model: Any = None  # the model that history describes
        self._rollouts = self._measured = 0  # counted since this model was first measured
        self._iteration = self._logged = 0  # counted since this call of learn() began
        self._pending: Snapshot | None = None
        self._early: Measured = {}  # metrics that are measured before the update
        self._norms: GradientNorms | None = None

    # ------------------------------------------------------------------------------------------------ when to measure

    def _init_callback(self) -> None:
        self._check_parent()
        if self._measured_model is not self.model:
            self._measured_model = self.model
            self.begin_history()

    def _check_parent(self) -> None:
        if isinstance(self.parent, EventCallback):
            raise ValueError(
                f"{type(self).__name__} has to see every step: give it to learn() itself or in a CallbackList, not to "
                f"{type(self.parent).__name__}"
            )

    def begin_history(self) -> None:
        """Forget the history of another model."""
        self.history.clear()
        self._rollouts = self._measured = 0

    def _on_training_start(self) -> None:
        self._check_parent()  # a CallbackList sets the parent only now
        self._is_off_policy = isinstance(self.model, MEASURABLE)
        if not self._is_off_policy:
            check_measurable(self.model, type(self).__name__, " and SAC, TD3, DDPG, D4PG and SoftQLearning")
        self._forget()
        self._iteration = self._logged = 0
        self._episodes, self._observations = EpisodeTracker(self.training_env.num_envs), ObservationRange()
        self._memory = MemoryMeter()
        self._is_ours = isinstance(self.model, PolicyGradientAlgorithm)
        self._keep_distribution(True)
        self._timer.attach(self.training_env)

    def _on_rollout_start(self) -> None:
        self._timer.switch(MEASURING)
        self._finish({})  # SB3's algorithms do not call a callback after an update
        self._episodes.start()
        self._timer.switch(ACTING)

    def _on_step(self) -> bool:
        if not self._is_ours:
            self._episodes.step(self.locals["rewards"], self.locals["dones"], self.locals["infos"])
        if self._is_off_policy and self._ends_logged_episode() and self._model._n_updates > 0:
            if self._logged % self.every == 0:
                self._measure_memory(self.locals["infos"])
            self._logged += 1
        return True

    def _ends_logged_episode(self) -> bool:
        """Return whether an off-policy algorithm will write the log after this step."""
        ended, interval = np.count_nonzero(self.locals["dones"]), self.locals.get("log_interval")
        before = self._model._episode_num
        return bool(ended) and (interval is None or (before + ended) // interval > before // interval)

    def _on_rollout_end(self) -> None:
        if self._is_off_policy:
            self._timer.switch(UPDATE)
            return
        self._timer.switch(MEASURING)
        self._rollouts += 1
        self._iteration += 1
        if isinstance(self.model, PolicyGradientAlgorithm):
            self._episodes.rollout(self.model.last_rollout)
            if self._is_last:
                self._dump()  # the algorithm's last row has the last update, and would replace the one before it
        if self._will_be_logged():
            if self._logged % self.every == 0 or self._is_last:
                self._begin()
            self._logged += 1
        self._timer.switch(UPDATE)

    def on_update_end(self, metrics: dict[str, float]) -> None:
        """
        Measure the policy after an update; called by this package's algorithms.

        :param metrics: metrics of the update
        """
        self._timer.switch(MEASURING)
        self._finish(metrics)
        self._timer.switch(UPDATE)

    def _on_training_end(self) -> None:
        self._timer.switch(MEASURING)
        self._finish({})
        if self._is_off_policy and self._model._n_updates > 0 and not self._is_measured:
            self._measure_memory()
        self._dump()  # SB3 does not log its last update
        self._detach()

    def on_training_error(self, error: Exception) -> None:
        """
        Restore model and environments when an error ends the run; called by this package's algorithms.

        :param error: the error
        """
        self._forget()
        self._detach()

    def _detach(self) -> None:
        """Restore model and environments."""
        self._timer.detach()
        self._keep_distribution(False)

    def _keep_distribution(self, keep: bool) -> None:
        if isinstance(self.model, PolicyGradientAlgorithm):
            self.model.keeps_distribution = keep

    def _will_be_logged(self) -> bool:
        """Return whether the update will be logged. SB3 logs an update after the rollout that follows it."""
        interval = self.locals.get("log_interval")
        return interval is None or self._is_last or (self._iteration + 1) % interval == 0

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, 1.0 - self._model._current_progress_remaining)  # the last rollout may exceed total_timesteps

    @property
    def _is_last(self) -> bool:
        return self.num_timesteps >= self.locals.get("total_timesteps", math.inf)

    def _dump(self) -> None:
        """
        Write a row with the update that was measured, unless the algorithm has done so. The values of train/ stay in the
        logger, as SB3 leaves them.
        """
        logger: Any = self.logger
        is_written = not any(name.startswith(PREFIX) for name in logger.name_to_value)
        if is_written or self.locals.get("log_interval") is None:
            return
        kept = [(store, {name: x for name, x in store.items() if name.startswith("train/")}) for store in _stores(logger)]
        logger.dump(self.num_timesteps)
        for store, values in kept:
            store.update(values)

    # ------------------------------------------------------------------------------------------------ what to measure

    def _begin(self) -> None:
        """Measure what can be measured before the update."""
        model = self._model
        snapshot = self._pending = take_snapshot(model)
        self._early = {
            **initial_ratio_metrics(first_step_log_prob(model.policy, snapshot.rows), snapshot.rows.log_prob),
            **self._episodes.read(),
        }
        has_rows = snapshot.rows.memory is None  # the gradient of a recurrent policy is no mean over independent rows
        if has_rows and self._is_costly and self._wants("gradient_noise_scale", "noise_to_batch"):
            self._early |= noise_scale_metrics(model, snapshot, self._policy_rows(snapshot.rows))
        if not self._is_ours and self._wants("grad_norm", "grad_norm_max", "grad_clipped"):
            epochs = getattr(model, "n_epochs", getattr(model, "n_critic_updates", 1))
            steps = epochs * ceil_div(len(snapshot.rows), self._batch_size(snapshot.rows))
            self._norms = GradientNorms(list(model.policy.parameters()), steps, MEASURED_GRADIENTS)

    def _finish(self, metrics: dict[str, float]) -> None:
        """Measure the policy after the update, and log and keep the metrics."""
        snapshot, early, norms = self._pending, self._early, self._norms
        self._forget()
        if snapshot is not None:
            self._keep(early | self._after(snapshot) | self._gradients(norms.stop() if norms is not None else None, metrics))

    def _measure_memory(self, infos: Sequence[dict[str, Any]] = ()) -> None:
        """
        Measure an off-policy algorithm, and log and keep the metrics.

        :param infos: of the step that has just been taken, which the algorithm has not read yet
        """
        self._timer.switch(MEASURING)
        units = self._is_costly and self._wants("saturated_units", "dormant_units")
        ended = [info["episode"] for info in infos if "episode" in info]
        self._keep(self._memory.measure(self.model, units) | self._episodes.read_time_limits(), ended)
        self._timer.switch(ACTING)

    def _keep(self, measured: Measured, ended: Sequence[dict[str, Any]] = ()) -> None:
        """
        Log and keep metrics, with those that do not depend on the algorithm.

        :param measured: by metric
        :param ended: episodes of which the model does not know yet
        """
        measured |= self._timer.read()
        known: Any = self.model.ep_info_buffer
        episodes = [*known, *ended][-known.maxlen :]
        if episodes:
            measured["training_return"] = float(safe_mean([episode["r"] for episode in episodes]))
        numbers = read(measured | self.measure_more())
        for name in self.metrics:
            if name in numbers:
                self.logger.record(f"{PREFIX}{name}", numbers[name])
        update = self._model._n_updates if self._is_off_policy else self._rollouts
        place = {"timesteps": self.num_timesteps, "update": update}
        for name, number in (*place.items(), ("progress", self.progress)):
            self.logger.record(f"{PREFIX}{name}", number, exclude="stdout")
        self._measured += 1
        self.history.append({**place, **numbers})
        self.on_measured()

    def measure_more(self) -> Measured:
        """Return more metrics of this update. A subclass may override it."""
        return {}

    def on_measured(self) -> None:
        """React to a measured update, whose metrics are the last entry of ``history``. A subclass may override it."""

    def _after(self, snapshot: Snapshot) -> Measured:
        policy, space, rows = self._model.policy, self._model.action_space, snapshot.rows
        parameters = list(policy.parameters())
        measured = {
            **parameter_metrics(snapshot.parameters, parameters),
            **summary_metrics(advantage=rows.advantages, **{"return": rows.returns}),
            **({} if policy.squash_output else clipped_action_metrics(rows.actions, space)),
            **self._observations.update(rows.observations),
            **self._normalisation(rows),
        }
        if not math.isfinite(measured["parameter_change"]):
            return measured  # the policy cannot be evaluated any more
        with without_side_effects(policy):
            if self._is_costly and self._wants("saturated_units", "dormant_units"):
                with measure_dead_units(policy) as units:
                    after = evaluate_batch(policy, rows)
                measured |= units
            else:
                after = evaluate_batch(policy, rows)
            if self._has_critic and has_recurrent_critic(policy) and self._wants("memory_gain"):
                measured |= memory_metrics(after.values, values_without_memory(policy, rows), rows.returns)
        family = family_of(policy.action_dist)
        return {
            **measured,
            **kl_metrics(family, snapshot.before, after.distribution),
            **ratio_metrics(rows.log_prob, after.log_prob, self._clip_range),
            **exploration_metrics(after, family, space, rows.action_masks),
            **(critic_metrics(snapshot, after) if self._has_critic else {}),
        }

    def _normalisation(self, rows: Batch) -> Measured:
        if not getattr(self.model, "normalize_advantage", False):
            return {"advantage_scale": rows.advantages.std(correction=0)}
        return {"advantage_scale": 1.0, "normalised_rows": float(self._policy_rows(rows))}

    def _gradients(self, norms: list[float] | None, metrics: dict[str, float]) -> Measured:
        """Return gradient metrics from the hooks' norms, or from the metrics of this package's updates."""
        if norms is not None:
            return gradient_metrics(norms, self._model.max_grad_norm or None)  # 0 means no limit in sb3-contrib's TRPO
        of_policy = "grad_norm" in metrics
        names = {"grad_norm": "grad_norm" if of_policy else "critic_grad_norm", "grad_clipped": "grad_clipped"}
        return {name: metrics[key] for name, key in names.items() if key in metrics}

    def _forget(self) -> None:
        if self._norms is not None:
            self._norms.stop()
        self._pending, self._early, self._norms = None, {}, None

    def _wants(self, *names: str) -> bool:
        return not self._needed.isdisjoint(names)

    @property
    def _model(self) -> Any:
        return self.model

    @property
    def _is_measured(self) -> bool:
        """Whether the last measurement was at the current step."""
        return bool(self.history) and self.history[-1]["timesteps"] == self.num_timesteps

    @property
    def _is_costly(self) -> bool:
        return self._measured % self.costly_every == 0

    @property
    def _has_critic(self) -> bool:
        return getattr(self.model, "trains_critic", True)

    def _policy_rows(self, rows: Batch) -> int:
        """Return the number of rows in a gradient of the policy: a minibatch for PPO, all rows for the others."""
        return self._batch_size(rows) if hasattr(self.model, "n_epochs") else len(rows)

    def _batch_size(self, rows: Batch) -> int:
        """Return the number of rows in a minibatch, which is the whole rollout for algorithms without ``batch_size``."""
        return min(getattr(self.model, "batch_size", None) or len(rows), len(rows))

    @property
    def _clip_range(self) -> float:
        if self.clip_range is not None:
            return self.clip_range
        own = current_coefficient(self._model, "clip_range") if getattr(self.model, "clip_range", None) is not None else 0.0
        return own or DEFAULT_CLIP_RANGE


def _stores(logger: Any) -> tuple[dict[str, Any], ...]:
    """Return the dictionaries in which SB3's logger keeps values until it writes them."""
    return logger.name_to_value, logger.name_to_count, logger.name_to_excluded


def check_measurable(model: Any, callback: str, also: str = "") -> None:
    """
    Check that a callback can measure the updates of a model from the outside.

    :param model: the model
    :param callback: name of the callback, for the error message
    :param also: what else the callback measures, for the error message
    :raises ValueError: the algorithm is off-policy, or it is not of this package and its policy needs more than an observation
    """
    name = type(model).__name__
    if not isinstance(model, OnPolicyAlgorithm):
        raise ValueError(
            f"{callback} measures on-policy algorithms{also} only, and {name} is another one: train it without this callback"
        )
    needs_more = not isinstance(model.policy, ActorCriticPolicy) or is_recurrent(model.policy)
    if needs_more and not isinstance(model, PolicyGradientAlgorithm):
        raise ValueError(
            f"{callback} cannot measure {name}, whose policy needs more than an observation, such as an action mask or a "
            f"recurrent state: train it without this callback, or take sb3_pgx's {name} if there is one"
        )
    family_of(model.policy.action_dist)
