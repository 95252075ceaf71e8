"""One epoch: gradient steps on minibatches, compiled or eager, from one state of an update to the next."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import has_one_hot, one_hot
from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.follower import follow
from sb3_pgx.engine.gradient_steps import Step
from sb3_pgx.engine.minibatch_loss import MinibatchLoss
from sb3_pgx.engine.parameters import EagerParameters, FlatParameters, HeldParameters, MovedParameters, SteppedByOptimizer
from sb3_pgx.engine.step import GatedParameters, OnDevice, OnHost, Place, gradient_step
from sb3_pgx.engine.step_log import OPEN, Progress, StepLog
from sb3_pgx.parallel.reductions import unpacked


class State(NamedTuple):
    """
    How far an update has come.

    :param held: parameters and moments; steps move them in place
    :param progress: gate, steps taken, factor of the learning rate and metrics
    :param lagging: whether the policy lags behind the parameters
    """

    held: HeldParameters
    progress: Progress = Progress()
    lagging: bool = False


class Epoch:
    """
    One epoch of an update. It takes a state and leaves another one, also after an interruption.

    A step is a compiled graph, or the same computation run eagerly: loss, gradient, clip, optimizer.

    :param loss: of the update
    :param state: before the epoch
    :param compiled: whether to compile the steps if possible
    :param n_batches: largest number of minibatches
    """

    def __init__(self, loss: MinibatchLoss, state: State, compiled: bool, n_batches: int):
        self.loss, self.steps, self.compiled, self._n_batches = loss, loss.steps, compiled, n_batches
        self._state = state
        self._log: StepLog | OnHost | None = None  # of steps that are not part of the state yet
        self._graph: Step | None = None
        self._has_looked = False  # whether there is a graph
        self._lasting: list[Tensor] = []  # arguments that all steps share

    @property
    def state(self) -> State:
        """The state after the steps taken. To read it, the host waits for the device."""
        if self._log is not None:
            self._state, self._log = self._state._replace(progress=self._log.progress), None
        return self._state

    def compile_ahead(self, batch: Rows) -> None:
        """Begin to compile the step on batches like this one in a thread, without taking it."""
        held = self._state.held
        if isinstance(held, MovedParameters) and self._is_compiled(batch):
            (scalars,) = held.step_scalars(0, 1, self.steps.kept_scalars)
            with th.no_grad():
                self._compiling(encode(batch, self.loss.policy), scalars, ahead=True)

    def run(self, batches: Sequence[Rows]) -> None:
        """
        Take one gradient step per minibatch, while the gate is open.

        :raises Refusal: the policy's distribution cannot be made from its parameters
        """
        scalars: Sequence[Tensor | None] = [None] * len(batches)
        held = self._state.held
        if isinstance(held, MovedParameters) and (self.compiled or not self.host_waits):
            scalars = held.step_scalars(self._state.progress.taken, len(batches), self.steps.kept_scalars)
        with th.no_grad():
            encoded: Iterable[Rows | None] = (
                encode(batch, self.loss.policy) if self._is_compiled(batch) else None for batch in batches
            )
            if not has_one_hot(self.loss.policy.observation_space):  # of many choices one batch at a time is large enough
                encoded = list(encoded)  # faster than between the steps, which leave nothing else in the caches
            for batch, for_graph, step_scalars in zip(batches, encoded, scalars, strict=True):
                self._step(batch, for_graph, step_scalars)

    @property
    def host_waits(self) -> bool:
        """Whether the host reads the numbers of each eager step at once; otherwise gate and metrics stay on the device."""
        return self._device.type != "cuda" or isinstance(self._state.held, SteppedByOptimizer)

    @property
    def _device(self) -> th.device:
        return self.steps.used[0].device

    def _is_compiled(self, batch: Rows) -> bool:
        return self.compiled and len(batch) == self.loss.plan.rows

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
        if not self._has_looked or not batch.alike:  # looked up once if all minibatches have one layout
            self._graph, self._has_looked = self._compiling(encoded, scalars)(), True
        if self._graph is None:
            return False
        log = self._on_device()
        self._graph([*self._lasting, log.flags, log.outcome, scalars, *encoded.tensors()])
        log.advance()
        if not self._state.lagging:
            self._state = self._state._replace(lagging=True)
        return True

    def _compiling(self, encoded: Rows, scalars: Tensor, ahead: bool = False) -> Callable[[], Step | None]:
        """Begin to compile the step on such a batch, unless it is compiled; see :meth:`GradientSteps.graph`."""
        held, plan, log = self._state.held, self.loss.plan, self._on_device()
        assert isinstance(held, MovedParameters)
        if not self._lasting:
            following = [p for f in self.steps.followers for p in f.modules.parameters.values()]
            numbers = self.steps.kept_numbers(
                (plan.numbers, self._device), lambda: th.tensor(plan.numbers, dtype=th.float64, device=self._device)
            )
            self._lasting = [*held.pieces, *held.moments, *self.steps.fixed, *following, numbers]
        lasting = [*self._lasting, log.flags, log.outcome, scalars]
        return self.steps.graph(self.loss.policy, plan, held, lasting, encoded, ahead)

    def _eager_step(self, batch: Rows, scalars: Tensor | None) -> None:
        held, bound, plan = self._eager_parameters(), self.steps.bound, self.loss.plan
        place: Place
        moved: EagerParameters | GatedParameters = held
        if scalars is None or self.host_waits or not isinstance(held, FlatParameters):
            place = self._on_host()
            if place.gate != OPEN:
                return
        else:
            log, moments = self._on_device(), [[moment] for moment in held.moments]
            place = OnDevice(log.flags, log.outcome)
            moved = GatedParameters(held.rule, [held.theta], moments, scalars.unbind(), held.irrevocable)
            log.advance()
        metrics, pieces = self._missed(held) or self._reduced(batch, held)
        go = gradient_step(place, moved, metrics, pieces, plan.limits, bound.distance, plan.adapt)
        if go is not False:
            held.store_parameters()
            for follower in self.steps.followers:
                assert bound.objective.follows is not None
                follow(follower.pairs(), bound.objective.follows, plan.coefficients, go)

    def _reduced(self, batch: Rows, held: EagerParameters) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return metrics and gradient of a minibatch, of all processes."""
        measured, gradient = self.loss.gradient(batch)
        return self.steps.reduction(self.steps.bound.metrics(measured), held.arranged(gradient))

    def _missed(self, held: EagerParameters) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:
        """Return metrics and gradient of a step that other processes have taken without this one."""
        like, n_metrics = self.steps.used, len(self.steps.bound.names)
        numbers = self.steps.reduction.missed(n_metrics, like)
        if numbers is None:
            return None
        metrics, pieces = unpacked(numbers, n_metrics, like)
        return metrics, held.arranged(pieces)

    def _eager_parameters(self) -> EagerParameters:
        """Return the parameters for eager steps, up to date with those of the graph."""
        held = self._state.held
        if isinstance(held, EagerParameters) and not self._state.lagging:
            return held
        if not isinstance(held, EagerParameters):
            held = held.eager(self.state.progress.taken)
            self._lasting, self._graph, self._has_looked = [], None, False
        if self._state.lagging:
            held.store_parameters()
        self._state = self._state._replace(held=held, lagging=False)
        return held

    def _on_host(self) -> OnHost:
        if not isinstance(self._log, OnHost):
            self._log = OnHost(self.state.progress)
        return self._log

    def _on_device(self) -> StepLog:
        if not isinstance(self._log, StepLog):
            n_metrics = len(self.steps.bound.names) + 2
            self._log = StepLog(self.state.progress, self._n_batches, n_metrics, self._device, self.steps.kept_log)
        return self._log


def encode(batch: Rows, policy: ActorCriticPolicy) -> Rows:
    """
    Return a batch as a graph takes it: parts of a dictionary in the order of the space, one-hot encoded. Encoding reads
    values, which a trace cannot do.
    """
    batch, space = batch.for_graph(), policy.observation_space
    if not (has_one_hot(space) or isinstance(space, spaces.Dict)):
        return batch
    return batch.with_observations(lambda x: one_hot(x, space))  # in the order of the space
