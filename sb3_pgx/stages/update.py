"""Stage 4: gradient steps on what stands in the rollout buffer; an update that is refused changes nothing."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from sb3_pgx.core.buffer_arrays import rollout_of, to_numpy
from sb3_pgx.core.controllers import KLAdaptiveLearningRate, adapted_scale
from sb3_pgx.core.custom_buffer import batches
from sb3_pgx.core.distributions import release_graph
from sb3_pgx.core.mixed_spaces import n_gaussian
from sb3_pgx.core.policies import mean_std
from sb3_pgx.core.rollout import Batch, PolicyInputs, Rollout
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.core.schedules import Coefficient, evaluate_coefficient
from sb3_pgx.core.undo import numbers_of, options_of, tensors_of
from sb3_pgx.engine import Follower, GradientSteps, Plan, Update, open_update
from sb3_pgx.engine.compile_locks import with_helper
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.stages.action_sampler import ActionSampler
from sb3_pgx.stages.estimate import Estimating
from sb3_pgx.stages.evaluate import evaluate_rows
from sb3_pgx.stages.report import Metrics, read


def _definer(algorithm: object, name: str) -> type | None:
    """Return the class that defines a method of an algorithm; ``None`` if the object has one of its own."""
    return None if name in vars(algorithm) else next(c for c in type(algorithm).__mro__ if name in vars(c))


class Updating(Estimating):
    """The fourth stage of an algorithm. Subclasses fill in :meth:`update`."""

    n_gradient_steps = 0  # taken so far
    learning_rate: Coefficient  # type: ignore[assignment]
    _metrics: dict[str, float]  # of the last update
    _steps: GradientSteps
    _scheduled_learning_rate: Any  # for which there is a schedule

    @property
    def takes_one_step(self) -> bool:
        """Whether an update is a single gradient step, which is taken as a whole or not at all."""
        return False

    @abstractmethod
    def update(self, rollout: Rollout) -> Metrics:
        """Stage 4: change the policy. Return the metrics to log, with keys without the ``train/`` prefix."""

    def follower(self) -> Follower | None:
        """A second policy that follows the trained one, as the objective says; ``None`` if there is none."""
        return None

    @contextmanager
    def gradient_steps(
        self, coefficients: Any, rows: int, max_distance: float | None = None, one_by_one: bool = False
    ) -> Iterator[Update]:
        """
        Steps on the algorithm's ``objective``; see :class:`~sb3_pgx.engine.Update`.

        :param coefficients: a named tuple, as :class:`~sb3_pgx.engine.Plan` wants it
        :param rows: rows of a minibatch; smaller minibatches are never compiled
        :param max_distance: take no more steps once the policy is further than this from the one that acted
        :param one_by_one: whether each step counts as an update
        """
        controller = self.learning_rate if isinstance(self.learning_rate, KLAdaptiveLearningRate) else None
        adapt, numbers = (None, ()) if controller is None else (adapted_scale, controller.numbers)
        coefficients = self.team.coefficients(coefficients)
        plan = Plan(coefficients, self.max_grad_norm, rows, max_distance, adapt, numbers, one_by_one)
        assert self.objective is not None
        self._steps.objective, self._steps.reduction = self.objective, self.team.reduction
        keep = self._keep_parameters if self.takes_one_step else None
        others = (self._modules.version, self.follower(), keep)
        with open_update(self._steps, self.policy, plan, self.compiled, self._n_updates, *others) as update:
            try:
                yield update
            finally:
                if update.taken:
                    self.n_gradient_steps += update.taken
                if controller is not None:
                    controller.scaled(update.scale)

    def steps_of(self, rollout: Rollout) -> AbstractContextManager[Update]:
        """
        Open the :meth:`gradient_steps` of :meth:`update`.

        If an algorithm defines this and uses it in ``update``, its step is compiled at the same time as acting. It is called
        once more for that, so it must change nothing.

        :param rollout: estimated
        """
        raise NotImplementedError

    def compile_acting(self, sampler: ActionSampler, inputs: PolicyInputs) -> None:
        """
        Compile acting and, before the first update, the gradient step and the evaluation of a short rollout, at once.
        Arguments are those of the base class.
        """
        if not self._can_compile_ahead(sampler):
            super().compile_acting(sampler, inputs)
            return
        with with_helper():
            try:
                example = self._begin_to_compile_the_step(inputs)
                super().compile_acting(sampler, inputs)
                if example is not None:
                    self.evaluate_by_graph(example)
            finally:
                self._steps.wait()

    def _can_compile_ahead(self, sampler: ActionSampler) -> bool:
        definer = _definer(self, "steps_of")
        if definer is None or definer is not _definer(self, "update") or self._steps.begun:
            return False
        if not (isinstance(self.rollout_buffer, RolloutView) and sampler.can_be_compiled(self.policy)):
            return False
        # Where rows are left out, a rollout that is one minibatch has another number of rows each time, and runs uncompiled.
        return carrying_adapter(self.env) is None or self.rows_of_minibatch < self.n_steps * self.n_envs

    @property
    def rows_of_minibatch(self) -> int:
        """Number of rows that this process has of a full minibatch."""
        rows = self.n_steps * self.n_envs
        return min(getattr(self, "batch_size", rows * self.team.size) // self.team.size, rows)

    def _begin_to_compile_the_step(self, inputs: PolicyInputs) -> Rollout | None:
        """Return the rollout on which the step is compiled, or ``None`` if that failed."""
        size, example = self.rows_of_minibatch, None
        with suppress(Exception):  # if the policy fails, it fails again where that is reported
            self._steps.begun = True
            rollout = self.example_rollout(inputs, math.ceil(size / self.n_envs))
            self._modules.train(self.policy, True)
            try:
                with self.steps_of(rollout) as update:
                    batch = rollout.rows(rollout.valid_rows()[:size])
                    update.compile_ahead(batch, n_batches=math.ceil(self.n_steps * self.n_envs / size))
                example = rollout
            finally:
                release_graph(self.policy)
                self._modules.train(self.policy, False)
        return example

    def minibatches(self, rollout: Rollout, batch_size: int | None) -> Iterator[Batch]:
        """
        Return the rollout's rows in SB3's random order, or the minibatches of a custom buffer class.

        If rows are left out, their number differs from rollout to rollout. Then the last minibatch is filled up with the
        epoch's first rows: a smaller one would run uncompiled, and each of its rows would count more.

        :param rollout: the estimated rollout
        :param batch_size: rows per minibatch, of all processes together; ``None`` for all rows at once
        """
        team = self.team
        share = None if batch_size is None else batch_size // team.size
        return team.standardized(self._minibatches(rollout, share), getattr(self, "normalize_advantage", False))

    def _minibatches(self, rollout: Rollout, batch_size: int | None) -> Iterator[Batch]:
        if not isinstance(self.rollout_buffer, RolloutView):
            masked = self.last_rollout is not None and self.last_rollout.action_masks is not None
            yield from batches(self.rollout_buffer, batch_size, masked)
            return
        if rollout.memory is not None:
            yield from self._minibatches_of_sequences(rollout, batch_size)
        elif batch_size is None:
            np.random.permutation(rollout.n_valid)  # as SB3 does, even where all rows are one batch
            yield rollout.rows(None if rollout.complete else rollout.valid_rows())
        else:
            rows = rollout.valid_rows()
            order: Any = np.random.permutation(len(rows))
            if not rollout.complete and len(rows) > batch_size:
                order = np.concatenate([order, order[: -len(rows) % batch_size]])
            order = th.as_tensor(order, device=rows.device)
            yield from rollout.rows(rows[order]).split(batch_size)

    def _minibatches_of_sequences(self, rollout: Rollout, batch_size: int | None) -> Iterator[Batch]:
        """
        Yield the rows of a recurrent rollout in minibatches that keep steps together.

        As in sb3-contrib, a minibatch has consecutive rows of the rollout, environment after environment, from a random row
        on. Its gradient goes back to where an episode starts or the minibatch begins. With ``sequence_length``, the order of
        pieces of that length is random, and the gradient goes back to where a piece begins.
        """
        rows, length = rollout.valid_rows(), getattr(self, "sequence_length", None)
        begins = th.zeros_like(rows, dtype=th.bool)
        if batch_size is None:
            yield rollout.rows(rows)
            return
        if length is None:
            rows = rows.roll(-int(np.random.randint(len(rows))))
        else:
            begins[::length] = True
            pieces, marks = rows.split(length), begins.split(length)
            order = np.random.permutation(len(pieces))
            rows, begins = (th.cat([x[i] for i in order]) for x in (pieces, marks))
        if not rollout.complete and len(rows) > batch_size:
            missing = -len(rows) % batch_size
            rows, begins = (th.cat([x, x[:missing]]) for x in (rows, begins))
        for part, begin in zip(rows.split(batch_size), begins.split(batch_size), strict=True):
            yield rollout.rows(part, begin)

    def train(self) -> None:
        """Run stages 4 and 5 on the rollout that was collected last."""
        self._metrics = self._measured_update()
        self._report(self._metrics)

    def _measured_update(self) -> dict[str, float]:
        self._look_at_policy()  # a callback may have changed it
        with self._undo.on(Exception):
            rollout = self._learned_rollout()
            self._modules.train(self.policy, True)
            self._undo.add(numbers_of(self), options_of(self.policy.optimizer))
            self._update_learning_rate(self.policy.optimizer)
            if isinstance(self.learning_rate, KLAdaptiveLearningRate):
                self._undo.add(numbers_of(self.learning_rate))
            if not self.takes_one_step:
                self._keep_parameters()
            try:
                metrics = read(self.update(rollout))
            finally:
                release_graph(self.policy)
        self._undo.forget()
        return metrics

    def _keep_parameters(self) -> None:
        """Remember all that is saved as a state dictionary, to restore it if the update is refused."""
        tensors, optimizers = self._modules.tensors(), []
        for name in self._get_torch_save_params()[0]:
            kept = recursive_getattr(self, name)
            if isinstance(kept, th.optim.Optimizer):
                optimizers.append(kept)
            elif kept is not self.policy:
                tensors += self.tensors_in(kept)
        self._undo.add(tensors_of(tensors, optimizers))

    def tensors_in(self, module: nn.Module) -> list[Tensor]:
        """Return parameters and buffers of a module that is saved in addition to the policy."""
        return [*module.parameters(), *module.buffers()]

    def _learned_rollout(self) -> Rollout:
        """Return the rollout as it stands in the rollout buffer now."""
        buffer = self.rollout_buffer
        if not isinstance(buffer, RolloutView):
            self.refuse_buffer(type(buffer), "rollout_buffer")
            return rollout_of(buffer, None, self.device) if self.last_rollout is None else self.last_rollout
        rollout = self.last_rollout = buffer.rollout(self.device)
        if self.reads_distribution:
            changed = "observations" not in self.unlearned and buffer.observations_in_hand
            if rollout.distribution is None or changed:
                self._modules.train(self.policy, False)
                with th.no_grad():
                    rollout.distribution = evaluate_rows(self.policy, rollout, True)[2]
        return rollout

    def _report(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _update_learning_rate(self, optimizers: Any) -> None:
        if self.learning_rate is not self._scheduled_learning_rate:  # somebody has set it
            self._setup_lr_schedule()
        evaluate_coefficient(self.lr_schedule, self._current_progress_remaining, "learning_rate")
        super()._update_learning_rate(optimizers)

    def coefficient(self, name: str) -> float:
        """
        Return the current value of a coefficient that is a number, a schedule or a string.

        :raises ValueError: it is negative, not finite, or no coefficient
        """
        return evaluate_coefficient(getattr(self, name), self._current_progress_remaining, name)

    def spread(self) -> Metrics:
        """Return ``std`` as SB3 logs it, if the policy has one. A state-dependent one is averaged over the last states."""
        if not n_gaussian(self.action_space) or self.last_rollout is None:
            return {}
        std = mean_std(self.policy, self.last_rollout.last_observations)
        return {} if std is None else {"std": std}

    def explained_variance(self) -> float:
        """Return 1 − Var(returns − values) / Var(returns), of the values before the update."""
        ours = isinstance(self.rollout_buffer, RolloutView)
        values, returns = (
            to_numpy(self.team.of_all(getattr(self.last_rollout, name))) if ours else getattr(self.rollout_buffer, name)
            for name in ("values", "returns")
        )
        return float(explained_variance(values.ravel(), returns.ravel()))
