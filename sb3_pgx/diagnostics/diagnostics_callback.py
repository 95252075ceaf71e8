"""A callback that measures every update from the outside: the policy before it, the policy after it, and the whole rollout."""

import math
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import safe_mean

from sb3_pgx.core.checks import check_counts
from sb3_pgx.core.distributions import family_of
from sb3_pgx.core.rollout import Batch
from sb3_pgx.diagnostics.dead_units import activity
from sb3_pgx.diagnostics.episodes import EpisodeWatch, ObservationRange
from sb3_pgx.diagnostics.gradients import GradientNorms, coefficient, gradient_noise
from sb3_pgx.diagnostics.measures import (
    Measured,
    clipped_actions,
    critic,
    divergence,
    exploration,
    gradient_norms,
    mismatch,
    movement,
    ratios,
    scales,
)
from sb3_pgx.diagnostics.metrics import METRICS, check_metrics
from sb3_pgx.diagnostics.snapshot import Snapshot, as_it_acts, evaluate_batch, of_first_step, take_snapshot
from sb3_pgx.diagnostics.stopwatch import Stopwatch
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, ceil_div
from sb3_pgx.stages.report import read

MEASURED_GRADIENTS = 16  # minibatches of an update whose gradient is looked at, of SB3's algorithms
PREFIX = "diagnostics/"
DEFAULT_CLIP_RANGE = 0.2  # PPO's, for algorithms that have none


class DiagnosticsCallback(BaseCallback):
    """
    Measures updates of any algorithm with SB3's on-policy interface (ours, SB3's ``PPO`` and ``A2C``, sb3-contrib's ``TRPO``)
    and logs ``diagnostics/…``: :data:`~sb3_pgx.diagnostics.METRICS` says what each number means.

    It looks at the policy at the end of a rollout and again after the update. It measures the updates that will be logged
    (all of them where ``log_interval`` is ``None``), and the last one, which it dumps at the end of the training of SB3's
    algorithms; the last row of this package's has the last update. It changes nothing: the same seed gives the same training
    with and without it.

    ``history`` holds all that was measured, logged or not, one dictionary an update, with ``timesteps`` and ``update``.

    :param metrics: names to log; ``None``: all that there are
    :param clip_range: ε of ``clip_fraction``; ``None``: the algorithm's own, or 0.2
    :param every: of the updates that will be logged, measure one in so many
    :param costly_every: of the updates that are measured, take the costly metrics in one of so many
    :param verbose: as SB3's
    :raises ValueError: an argument makes no sense, or (when the training starts) the algorithm's updates cannot be measured
    """

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
        self._stopwatch = Stopwatch()
        self._measures: Any = None  # the model that history is about
        self._rollouts = self._measured = 0  # of that model
        self._iteration = self._logged = 0  # of this training
        self._pending: Snapshot | None = None
        self._early: Measured = {}  # what is measured before the update
        self._norms: GradientNorms | None = None

    # ------------------------------------------------------------------------------------------------ when

    def _init_callback(self) -> None:
        self._check_parent()
        if self._measures is not self.model:
            self._measures = self.model
            self._begin_history()

    def _check_parent(self) -> None:
        if isinstance(self.parent, EventCallback):
            raise ValueError(
                f"{type(self).__name__} has to see every step: give it to learn() itself or in a CallbackList, not to "
                f"{type(self.parent).__name__}"
            )

    def _begin_history(self) -> None:
        """With a model that has not been measured before."""
        self.history.clear()
        self._rollouts = self._measured = 0

    def _on_training_start(self) -> None:
        self._check_parent()  # a list has told it only now
        check_measurable(self.model, type(self).__name__)
        self._forget()
        self._iteration = self._logged = 0
        self._episodes, self._observations = EpisodeWatch(self.training_env.num_envs), ObservationRange()
        self._is_ours = isinstance(self.model, PolicyGradientAlgorithm)
        self._keep_distribution(True)
        self._stopwatch.detach()
        self._stopwatch.attach(self.training_env)
        self._stopwatch.restart()

    def _on_rollout_start(self) -> None:
        self._stopwatch.updated()
        self._finish({})  # SB3's algorithms do not say when an update has ended
        self._episodes.start()
        self._stopwatch.skip()

    def _on_step(self) -> bool:
        if not self._is_ours:
            self._episodes.step(self.locals["rewards"], self.locals["dones"], self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        self._stopwatch.collected()
        self._rollouts += 1
        self._iteration += 1
        if isinstance(self.model, PolicyGradientAlgorithm):
            self._episodes.rollout(self.model.last_rollout)
        if self._will_be_logged():
            if self._logged % self.every == 0 or self._is_last:
                self._begin()
            self._logged += 1
        self._stopwatch.skip()

    def on_update_end(self, metrics: dict[str, float]) -> None:
        """
        Called by this package's algorithms.

        :param metrics: what the update measured itself
        """
        self._stopwatch.updated()
        self._finish(metrics)
        self._stopwatch.skip()

    def _on_training_end(self) -> None:
        self._stopwatch.updated()
        self._finish({})
        if any(name.startswith(PREFIX) for name in self.logger.name_to_value):  # SB3 will not log it any more
            self._dump()
        self._detach()

    def on_training_error(self, error: Exception) -> None:
        """
        Called by this package's algorithms.

        :param error: that ends the training
        """
        self._forget()
        self._detach()

    def _detach(self) -> None:
        """Leave model and environments as they were."""
        self._stopwatch.detach()
        self._keep_distribution(False)

    def _keep_distribution(self, keep: bool) -> None:
        if isinstance(self.model, PolicyGradientAlgorithm):
            self.model.keeps_distribution = keep

    def _will_be_logged(self) -> bool:
        """SB3 logs an update when the rollout after it has been collected, and never the last one, which is logged here."""
        interval = self.locals.get("log_interval")
        return interval is None or self._is_last or (self._iteration + 1) % interval == 0

    @property
    def _is_last(self) -> bool:
        return self.num_timesteps >= self.locals.get("total_timesteps", math.inf)

    def _dump(self) -> None:
        """The last update, whose metrics stay in the logger as SB3 leaves them."""
        if self.locals.get("log_interval") is None:
            return
        logger: Any = self.logger
        kept = [(held, {name: x for name, x in held.items() if name.startswith("train/")}) for held in _held(logger)]
        logger.dump(self.num_timesteps)
        for held, values in kept:
            held.update(values)

    # ------------------------------------------------------------------------------------------------ what

    def _begin(self) -> None:
        """Before the update."""
        model = self._model
        snapshot = self._pending = take_snapshot(model)
        self._early = {
            **mismatch(of_first_step(model.policy, snapshot.rows), snapshot.rows.log_prob),
            **self._episodes.read(),
        }
        if self._is_costly and self._wants("gradient_noise_scale", "noise_to_batch"):
            self._early |= gradient_noise(model, snapshot, self._policy_rows(snapshot.rows))
        if not self._is_ours and self._wants("grad_norm", "grad_norm_max", "grad_clipped"):
            epochs = getattr(model, "n_epochs", getattr(model, "n_critic_updates", 1))
            steps = epochs * ceil_div(len(snapshot.rows), self._batch_size(snapshot.rows))
            self._norms = GradientNorms(list(model.policy.parameters()), steps, MEASURED_GRADIENTS)

    def _finish(self, metrics: dict[str, float]) -> None:
        """After the update."""
        snapshot, early, norms = self._pending, self._early, self._norms
        self._forget()
        if snapshot is None:
            return
        measured = early | self._after(snapshot) | self._gradients(norms.stop() if norms is not None else None, metrics)
        measured |= self._stopwatch.read()
        if self.model.ep_info_buffer:
            measured["training_return"] = float(safe_mean([episode["r"] for episode in self.model.ep_info_buffer]))
        numbers = read(measured | self.measure_more())
        for name in self.metrics:
            if name in numbers:
                self.logger.record(f"{PREFIX}{name}", numbers[name])
        self._measured += 1
        self.history.append({"timesteps": self.num_timesteps, "update": self._rollouts, **numbers})
        self.on_measured()

    def measure_more(self) -> Measured:
        """For a subclass: what else of the catalogue there is to know of this update."""
        return {}

    def on_measured(self) -> None:
        """For a subclass: called after each update that was measured, with the numbers at the end of ``history``."""

    def _after(self, snapshot: Snapshot) -> Measured:
        policy, space, rows = self._model.policy, self._model.action_space, snapshot.rows
        parameters = list(policy.parameters())
        measured = {
            **movement(snapshot.parameters, parameters),
            **scales(advantage=rows.advantages, **{"return": rows.returns}),
            **({} if policy.squash_output else clipped_actions(rows.actions, space)),
            **self._observations.see(rows.observations),
            **self._normalisation(rows),
        }
        if not math.isfinite(measured["parameter_change"]):
            return measured  # the policy cannot be asked any more
        with as_it_acts(policy):
            if self._is_costly and self._wants("saturated_units", "dormant_units"):
                with activity(policy) as units:
                    after = evaluate_batch(policy, rows)
                measured |= units
            else:
                after = evaluate_batch(policy, rows)
        return {
            **measured,
            **divergence(family_of(policy.action_dist), snapshot.before, after.distribution),
            **ratios(rows.log_prob, after.log_prob, self._clip_range),
            **exploration(after, space),
            **critic(snapshot, after),
        }

    def _normalisation(self, rows: Batch) -> Measured:
        if not getattr(self.model, "normalize_advantage", False):
            return {"advantage_scale": rows.advantages.std(correction=0)}
        return {"advantage_scale": 1.0, "normalised_rows": float(self._policy_rows(rows))}

    def _gradients(self, norms: list[float] | None, metrics: dict[str, float]) -> Measured:
        """From hooks, or from what the update measured."""
        if norms is not None:
            return gradient_norms(norms, self._model.max_grad_norm or None)  # sb3-contrib's TRPO has 0 for no limit
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
    def _model(self) -> OnPolicyAlgorithm:
        assert isinstance(self.model, OnPolicyAlgorithm)
        return self.model

    @property
    def _is_costly(self) -> bool:
        return self._measured % self.costly_every == 0

    def _policy_rows(self, rows: Batch) -> int:
        """Rows of a gradient of the policy: a minibatch of PPO; the others' policy takes all rows together."""
        return self._batch_size(rows) if hasattr(self.model, "n_epochs") else len(rows)

    def _batch_size(self, rows: Batch) -> int:
        """Rows of a minibatch; of algorithms that take one step a rollout, all of its rows."""
        return min(getattr(self.model, "batch_size", None) or len(rows), len(rows))

    @property
    def _clip_range(self) -> float:
        if self.clip_range is not None:
            return self.clip_range
        own = coefficient(self._model, "clip_range") if getattr(self.model, "clip_range", None) is not None else 0.0
        return own or DEFAULT_CLIP_RANGE


def _held(logger: Any) -> tuple[dict[str, Any], ...]:
    """What a logger keeps by name until it dumps."""
    return logger.name_to_value, logger.name_to_count, logger.name_to_excluded


def check_measurable(model: Any, callback: str) -> None:
    """:raises ValueError: the algorithm's updates cannot be measured from the outside by the callback of that name"""
    name = type(model).__name__
    if not isinstance(model, OnPolicyAlgorithm):
        raise ValueError(f"{name} learns from a memory, and {callback} is for on-policy algorithms: leave it out")
    if not isinstance(model.policy, ActorCriticPolicy) or hasattr(model.policy, "lstm_actor"):
        raise ValueError(
            f"the policy of {name} needs more than an observation to judge an action (a mask, or a state of its memory), "
            f"which {callback} does not know: leave it out"
        )
    family_of(model.policy.action_dist)
