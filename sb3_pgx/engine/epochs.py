"""One update of a first-order algorithm: epochs of gradient steps, eager or compiled."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import has_one_hot, one_hot
from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.compiler import Compiled, signature
from sb3_pgx.engine.follower import Follower, follow
from sb3_pgx.engine.gradient_steps import GradientSteps
from sb3_pgx.engine.parameters import (
    EagerParameters,
    FlatParameters,
    HeldParameters,
    MovedParameters,
    ParametersInPlace,
    SteppedByOptimizer,
)
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.policy_function import left_as_it_is
from sb3_pgx.engine.refusals import check_state, led_astray, not_finite, step_refusal
from sb3_pgx.engine.step import GatedParameters, OnDevice, OnHost, Place, gradient_step, gradients_of_loss, total_norm
from sb3_pgx.engine.step_log import DIVERGED, OPEN, STOPPED, Progress, StepLog

Metrics = dict[str, float]


class Update:
    """
    One update: epochs of minibatches, until the policy has moved too far from the one that acted.

    A step is a compiled graph, or the same computation run eagerly: loss, gradient, clip, optimizer. The optimizer's rule is
    applied as a function of parameters and moments (:mod:`sb3_pgx.engine.optimizers`); ``optimizer.step()`` is called only for
    optimizers without such a rule. :meth:`store` writes the moments into the optimizer's state at the end.

    ``stopped`` says whether the policy has moved too far, ``taken`` counts the steps taken, and ``scale`` is the factor by
    which a controller has multiplied the learning rate.
    """

    def __init__(
        self,
        steps: GradientSteps,
        policy: ActorCriticPolicy,
        plan: Plan,
        compiled: bool,
        number: int,
        keep: Callable[[], None] | None = None,
    ):
        self.steps, self.policy, self.plan, self.compiled, self._number = steps, policy, plan, compiled, number
        self._keep, self._irrevocable = keep, False
        self._progress = Progress()
        self._before = (0, 0)  # minibatches seen and steps taken before the last epoch
        self._n_batches = 0  # of the last epoch
        self._log: StepLog | OnHost | None = None  # of steps that are not part of the progress yet
        self._held: HeldParameters | None = None  # from the first minibatch on
        self._lagging = False  # whether the policy lags behind the flat vector
        self._graph: Compiled | None = None
        self._lasting: list[Tensor] = []  # arguments that all steps share
        self._graphs: dict[Any, Compiled | None] = {}  # by the layout of the batch

    @property
    def gate(self) -> float:
        """Whether steps are taken, see :mod:`~sb3_pgx.engine.step_log`."""
        return self._progress.gate

    @property
    def taken(self) -> int:
        """Number of steps taken."""
        return self._progress.taken

    @property
    def scale(self) -> float:
        """Factor by which a controller has multiplied the learning rate."""
        return self._progress.scale

    @property
    def stopped(self) -> bool:
        """Whether the policy has moved too far."""
        return self.gate == STOPPED

    @property
    def seen(self) -> int:
        """Number of minibatches seen."""
        return len(self._progress.outcomes)

    @property
    def last(self) -> Metrics:
        """Metrics of the last minibatch seen."""
        return dict(zip(self.steps.bound.names, self._progress.outcomes[-1], strict=False))

    @property
    def last_epoch(self) -> Metrics:
        """Return :meth:`means` of the last epoch alone."""
        return self._means(*self._before)

    def means(self) -> Metrics:
        """Return means of the metrics over the minibatches seen; those of the gradient norm are over the steps taken."""
        return self._means(0, 0)

    def largest(self, name: str) -> float:
        """Return the largest value of a metric over the minibatches seen."""
        place = self.steps.bound.names.index(name)
        return max(outcome[place] for outcome in self._progress.outcomes)

    @property
    def distance(self) -> float:
        """Distance of the policy from the one that acted, at the last minibatch seen."""
        assert self.steps.objective.distance is not None
        return self.last[self.steps.objective.distance]

    def epoch(self, batches: Iterable[Rows]) -> None:
        """
        Take one gradient step per minibatch. If steps are compiled or run on CUDA, their results are read once, at the end.

        :raises Refusal: a loss or a gradient is not finite; the caller undoes the steps before it
        """
        batches = list(batches)
        held = self._begun(batches[0], single=len(batches) == 1)
        self._before, self._n_batches = (self.seen, self.taken), len(batches)
        self._graph = None  # looked up once if the minibatches of an epoch have one layout
        scalars: Sequence[Tensor | None] = [None] * len(batches)
        if isinstance(held, MovedParameters) and (self.compiled or not self.host_waits):
            scalars = held.step_scalars(self.taken, len(batches), self.steps.kept_scalars)
        try:
            with th.no_grad():
                encoded: Iterable[Rows | None] = (
                    encode(batch, self.policy) if self._is_compiled(batch) else None for batch in batches
                )
                if not has_one_hot(self.policy.observation_space):  # of many choices one batch at a time is large enough
                    encoded = list(encoded)  # faster than between the steps, which leave nothing else in the caches
                for batch, for_graph, step_scalars in zip(batches, encoded, scalars, strict=True):
                    self._step(batch, for_graph, step_scalars)
        finally:
            self._read()  # also after an interruption the steps taken are counted
        if self.gate == DIVERGED:
            if self._lagging and self._held is not None:
                self._held.store_parameters()
            raise self._not_finite(batches[self.seen - self._before[0] - 1])

    def check(self, batch: Rows) -> None:
        """
        Check that a step on a batch could be taken, without taking it.

        :raises Refusal: loss or gradient is not finite
        """
        self._begun(batch, single=True)
        with left_as_it_is(self.policy):
            measured, gradient = self._measured_gradient(batch)
            if not all(map(math.isfinite, (measured["loss"].item(), total_norm(gradient)))):
                raise self._not_finite(batch)

    def check_result(self) -> None:
        """
        Check the result of all steps.

        :raises Refusal: a parameter or a moment is not finite
        """
        if self._held is not None and not (self._irrevocable or self._held.is_finite()):
            self._check_state()
            raise led_astray(self._done)

    def store(self) -> None:
        """Write the result into policy and optimizer."""
        if self._held is not None:
            self._read()
            self._held.store(self.taken)

    # ------------------------------------------------------------------------------------------------ one step

    def _begun(self, batch: Rows, single: bool) -> HeldParameters:
        """Return the parameters that move; which they are, the first minibatch shows."""
        if self._held is None:
            self._held = self._begin(batch, single)
        return self._held

    def _begin(self, batch: Rows, single: bool) -> HeldParameters:
        with self._refusals():
            rule = self.steps.prepare(self.policy, self.plan, batch)
        moved, optimizer = self.steps.used, self.policy.optimizer
        if self._keep is not None:
            self._irrevocable = single and not isinstance(rule, str) and not self.steps.has_buffers
            if not self._irrevocable:
                self._keep()
        if isinstance(rule, str):
            if self.compiled:
                self.steps.report_uncompiled(rule)
            self.compiled = False
            return SteppedByOptimizer(moved, optimizer)
        if self.compiled and (single or self.plan.one_by_one):
            return ParametersInPlace(moved, optimizer, rule, self._irrevocable)
        return FlatParameters(moved, optimizer, rule, self._irrevocable)

    @property
    def host_waits(self) -> bool:
        """Whether the host reads the numbers of each eager step at once; otherwise gate and metrics stay on the device."""
        return self._device.type != "cuda" or isinstance(self._held, SteppedByOptimizer)

    @property
    def _device(self) -> th.device:
        return self.steps.used[0].device

    def _is_compiled(self, batch: Rows) -> bool:
        return self.compiled and len(batch) == self.plan.rows

    def _step(self, batch: Rows, encoded: Rows | None, scalars: Tensor | None) -> None:
        """
        Take one gradient step: by a compiled graph if there is one, otherwise eagerly.

        :param batch: minibatch
        :param encoded: the same for a graph, one-hot encoded; ``None``: the step is not compiled
        :param scalars: those of the optimizer's rule on the device, such as the learning rate; ``None``: they stay on the host
        """
        if encoded is None or scalars is None or not self._compiled_step(batch, encoded, scalars):
            self._eager_step(batch, scalars)

    def _compiled_step(self, batch: Rows, encoded: Rows, scalars: Tensor) -> bool:
        """Take the step by its graph, which is compiled at the first call. Return false if it cannot be compiled."""
        held = self._held
        assert isinstance(held, MovedParameters)
        if not self._lasting:
            following = [p for f in self.steps.followers for p in f.modules.parameters.values()]
            numbers = self.steps.kept_numbers(
                (self.plan.numbers, self._device), lambda: th.tensor(self.plan.numbers, dtype=th.float64, device=self._device)
            )
            self._lasting = [*held.pieces, *held.moments, *self.steps.fixed, *following, numbers]
        passing = encoded.tensors()
        if self._graph is None or not batch.alike:
            layout = signature(passing)
            if layout not in self._graphs:
                log = self._on_device()
                lasting = [*self._lasting, log.flags, log.outcome, scalars]
                self._graphs[layout] = self.steps.graph(self.policy, self.plan, held, lasting, encoded, layout)
            self._graph = self._graphs[layout]
        if self._graph is None:
            return False
        log = self._on_device()
        self._graph([*self._lasting, log.flags, log.outcome, scalars, *passing])
        log.advance()
        self._lagging = True
        return True

    def _eager_step(self, batch: Rows, scalars: Tensor | None) -> None:
        held, bound, plan = self._eager_parameters(), self.steps.bound, self.plan
        place: Place
        moved: EagerParameters | GatedParameters = held
        if scalars is None or self.host_waits or not isinstance(held, FlatParameters):
            place = self._on_host()
            if place.gate != OPEN:
                return
        else:
            log, moments = self._on_device(), [[moment] for moment in held.moments]
            place = OnDevice(log.flags, log.outcome)
            moved = GatedParameters(held.rule, [held.theta], moments, scalars.unbind(), self._irrevocable)
            log.advance()
        measured, gradient = self._measured_gradient(batch)
        metrics, pieces = bound.metrics(measured), held.arranged(gradient)
        go = gradient_step(place, moved, metrics, pieces, plan.limits, bound.distance, plan.adapt)
        if go is not False:
            held.store_parameters()
            for follower in self.steps.followers:
                assert bound.objective.follows is not None
                follow(follower.pairs(), bound.objective.follows, plan.coefficients, go)

    def _eager_parameters(self) -> EagerParameters:
        """Return the parameters for eager steps, up to date with those of the graph."""
        assert self._held is not None
        if not isinstance(self._held, EagerParameters):
            self._read()  # the steps that it counts
            self._lasting, self._graphs, self._graph = [], {}, None
        self._held = held = self._held.eager(self.taken)
        if self._lagging:
            held.store_parameters()
            self._lagging = False
        return held

    def _measured_gradient(self, batch: Rows) -> tuple[dict[str, Tensor], list[Tensor]]:
        with th.enable_grad(), self._refusals():
            measured = self.steps.bound.measure(self.policy, batch, self.plan.coefficients)
        return measured, gradients_of_loss(measured["loss"], self.steps.used)

    @property
    def _done(self) -> int:
        """Number of updates done, for an error."""
        self._read()
        return self._number + self.taken * self.plan.one_by_one

    def _refusals(self) -> AbstractContextManager[None]:
        """Turn errors of torch's distributions (NaN, a standard deviation of 0) into the refusal of a step."""
        return blaming_numbers(self._refusal, lambda: f"while the policy learned, in update {self._done + 1}")

    def _refusal(self, what: str) -> ValueError:
        self._check_state()
        return step_refusal(f"the policy failed ({what})", self._done)

    # ------------------------------------------------------------------------------------------------ results

    def _on_host(self) -> OnHost:
        if not isinstance(self._log, OnHost):
            self._read()
            self._log = OnHost(self._progress)
        return self._log

    def _on_device(self) -> StepLog:
        if not isinstance(self._log, StepLog):
            self._read()
            n_metrics = len(self.steps.bound.names) + 2
            self._log = StepLog(self._progress, self._n_batches, n_metrics, self._device, self.steps.kept_log)
        return self._log

    def _read(self) -> None:
        """Read the log and close it. This is the only place where the host waits for a device."""
        if self._log is not None:
            self._progress, self._log = self._log.progress, None

    def _not_finite(self, batch: Rows) -> ValueError:
        """Repeat the step at the parameters before it, to find what is not finite."""
        self._check_state()
        with self._refusals():
            measured = self.steps.bound.measure(self.policy, batch, self.plan.coefficients)
        pieces = gradients_of_loss(measured["loss"], self.steps.used)
        names = {id(p): name for name, p in self.policy.named_parameters()}
        gradients = {f"gradient of {names[id(p)]}": g for p, g in zip(self.steps.used, pieces, strict=True)}
        parts = {name: value for name, value in measured.items() if name != "loss"}
        if all(map(math.isfinite, (measured["loss"].item(), total_norm(pieces)))):
            return led_astray(self._done)
        return not_finite({**batch.suspects(), **parts, "loss": measured["loss"], **gradients}, self._done)

    def _check_state(self) -> None:
        names = {id(p): name for name, p in self.policy.named_parameters()}
        check_state(self.policy.optimizer, {names[id(p)]: p for p in self.steps.used}, self._done)

    def _means(self, seen: int, taken: int) -> Metrics:
        """Return means since the given numbers of minibatches and steps."""
        n, n_taken = self.seen - seen, self.taken - taken
        *sums, norms, clipped = map(sum, zip(*self._progress.outcomes[seen:], strict=True))
        named = {name: value / n for name, value in zip(self.steps.bound.names, sums, strict=True)}
        return {**named, "grad_norm": norms / n_taken, "grad_clipped": clipped / n_taken} if n_taken else named


@contextmanager
def open_update(
    steps: GradientSteps,
    policy: ActorCriticPolicy,
    plan: Plan,
    compiled: bool,
    number: int,
    version: int = 0,
    follower: Follower | None = None,
    keep: Callable[[], None] | None = None,
) -> Iterator[Update]:
    """
    Open one update. When the context ends, also by an exception, policy and optimizer hold its result.

    :param steps: of the objective
    :param policy: in training mode
    :param plan: coefficients and limits
    :param compiled: whether to compile the steps if possible
    :param number: number of updates done before, for an error
    :param version: version of the policy's layers, from :class:`~sb3_pgx.engine.layers.Modules`
    :param follower: policy that follows the trained one, if the objective has one
    :param keep: for updates of one step, which nobody can undo: if the step cannot be gated, this is called before it, so that
        it can
    """
    steps.begin(version, follower)
    update = Update(steps, policy, plan, compiled, number, keep)
    try:
        yield update
        update.check_result()
    finally:
        update.store()


def encode(batch: Rows, policy: ActorCriticPolicy) -> Rows:
    """
    Return a batch as a graph takes it: parts of a dictionary in the order of the space, one-hot encoded. Encoding reads
    values, which a trace cannot do.
    """
    batch, space = batch.in_fixed_shapes(), policy.observation_space
    if not (has_one_hot(space) or isinstance(space, spaces.Dict)):
        return batch
    return batch.with_observations(lambda x: one_hot(x, space))  # in the order of the space
