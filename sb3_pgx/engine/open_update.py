"""One update of a first-order algorithm: epochs of gradient steps, until the policy has moved too far."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.epochs import Epoch, State
from sb3_pgx.engine.follower import Follower
from sb3_pgx.engine.gradient_steps import GradientSteps
from sb3_pgx.engine.minibatch_loss import MinibatchLoss
from sb3_pgx.engine.parameters import FlatParameters, HeldParameters, ParametersInPlace, SteppedByOptimizer
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.policy_function import left_as_it_is
from sb3_pgx.engine.step import total_norm
from sb3_pgx.engine.step_log import DIVERGED, STOPPED, Progress

Metrics = dict[str, float]


class Update:
    """
    One update: epochs of minibatches, until the policy has moved too far from the one that acted.

    The optimizer's rule is applied as a function of parameters and moments (:mod:`sb3_pgx.engine.optimizers`);
    ``optimizer.step()`` is called only for optimizers without such a rule. :meth:`store` writes the moments into the
    optimizer's state at the end.

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
        self.steps, self.policy, self.plan, self.compiled, self._keep = steps, policy, plan, compiled, keep
        self._loss = MinibatchLoss(steps, policy, plan, lambda: self.taken, number)
        self._state: State | None = None  # from the first minibatch on
        self._epoch: Epoch | None = None  # that runs
        self._before = (0, 0)  # minibatches seen and steps taken before the last epoch

    @property
    def _progress(self) -> Progress:
        if self._epoch is not None:
            return self._epoch.state.progress
        return Progress() if self._state is None else self._state.progress

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
        state = self._begun(batches[0], single=len(batches) == 1)
        self._before = (self.seen, self.taken)
        self._epoch = Epoch(self._loss, state, self.compiled, len(batches))
        try:
            self._epoch.run(batches)
        finally:
            self._state, self._epoch = self._epoch.state, None  # also after an interruption the steps taken are counted
        if self.gate == DIVERGED:
            if self._state.lagging:
                self._state.held.store_parameters()
            raise self._loss.not_finite(batches[self.seen - self._before[0] - 1])

    def compile_ahead(self, batch: Rows, n_batches: int) -> None:
        """
        Begin to compile the step in a thread, without taking it.

        :param batch: rows like those of the minibatches to come; their values do not matter
        :param n_batches: number of minibatches of an epoch
        """
        if self.compiled:
            state = self._begun(batch, single=n_batches == 1)
            Epoch(self._loss, state, self.compiled, n_batches).compile_ahead(batch)

    def check(self, batch: Rows) -> None:
        """
        Check that a step on a batch could be taken, without taking it.

        :raises Refusal: loss or gradient is not finite
        """
        self._begun(batch, single=True)
        with left_as_it_is(self.policy):
            measured, gradient = self._loss.gradient(batch)
            if not all(map(math.isfinite, (measured["loss"].item(), total_norm(gradient)))):
                raise self._loss.not_finite(batch)

    def check_result(self) -> None:
        """
        Check the result of all steps.

        :raises Refusal: a parameter or a moment is not finite
        """
        if self._state is not None and not (self._state.held.irrevocable or self._state.held.is_finite()):
            self._loss.check_state()
            raise self._loss.led_astray()

    def store(self) -> None:
        """Write the result into policy and optimizer."""
        state = self._state if self._epoch is None else self._epoch.state  # an interruption may have come before the end
        if state is not None:
            state.held.store(state.progress.taken)

    def _begun(self, batch: Rows, single: bool) -> State:
        """Return the state so far. Which parameters move, the first minibatch shows."""
        if self._state is None:
            self._state = State(self._hold(batch, single))
        return self._state

    def _hold(self, batch: Rows, single: bool) -> HeldParameters:
        with self._loss.refusals():
            rule = self.steps.prepare(self.policy, self.plan, batch)
        moved, optimizer = self.steps.used, self.policy.optimizer
        irrevocable = self._keep is not None and single and not isinstance(rule, str) and not self.steps.has_buffers
        if self._keep is not None and not irrevocable:
            self._keep()
        if isinstance(rule, str):
            if self.compiled:
                self.steps.report_uncompiled(rule)
            self.compiled = False
            return SteppedByOptimizer(moved, optimizer)
        held = ParametersInPlace if self.compiled and (single or self.plan.one_by_one) else FlatParameters
        return held(moved, optimizer, rule, irrevocable)

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
