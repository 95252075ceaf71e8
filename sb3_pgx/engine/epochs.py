"""Epochs of gradient steps for a first-order algorithm, eager or compiled."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.distributions import has_one_hot, one_hot
from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.compiler import Compiled, NotCompilable, Remembered, compile_function, signature
from sb3_pgx.engine.follower import Follower, follow
from sb3_pgx.engine.gradient import check_state, led_astray, not_finite, refused
from sb3_pgx.engine.optimizers import OptimizerRule, rule_of
from sb3_pgx.engine.outcomes import DIVERGED, OPEN, STOPPED, StepLog
from sb3_pgx.engine.parameters import (
    FlatParameters,
    MovedParameters,
    ParametersInPlace,
    SteppedByOptimizer,
    states_of,
    steps_taken,
)
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.policy_function import left_as_it_is
from sb3_pgx.engine.step import (
    MAX_GRAD_NORM,
    BoundObjective,
    Objective,
    gated_step,
    gradients_of_loss,
    total_norm,
    used,
    verdict,
)
from sb3_pgx.engine.tensors import flatten
from sb3_pgx.engine.traced_step import traceable_step

Metrics = dict[str, float]


class GradientSteps:
    """
    The gradient steps of one algorithm on one objective, and the graphs compiled for them.

    :param objective: loss and metrics
    :param tell: function that logs one sentence about compiling
    """

    def __init__(self, objective: Objective, tell: Callable[[str], None] = lambda sentence: None):
        self.objective, self.tell = objective, tell
        self.names: list[str] = []  # of the objective's metrics
        self.used: list[nn.Parameter] = []  # parameters that the optimizer moves
        self.fixed: list[nn.Parameter] = []  # other parameters of the policy
        self.has_buffers = False  # which a forward pass may change
        self._structure: tuple[Any, ...] | None = None
        self._graphs: dict[Any, Compiled | None] = {}
        self._refused: str | None = None
        self._version, self._mixed = 0, False
        self.followers: list[Follower] = []  # one, or none
        # Of the optimizer's rule, of the plan, and of a log.
        self.rows, self.numbers, self.flags = Remembered(), Remembered(), Remembered()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "used": [], "fixed": [], "followers": [], "_structure": None, "_graphs": {}}

    @contextmanager
    def update(
        self,
        policy: ActorCriticPolicy,
        plan: Plan,
        compiled: bool,
        number: int,
        version: int = 0,
        follower: Follower | None = None,
        keep: Callable[[], None] | None = None,
    ) -> Iterator["Update"]:
        """
        Open one update. When the context ends, also by an exception, policy and optimizer hold its result.

        :param policy: in training mode
        :param plan: coefficients and limits
        :param compiled: whether to compile the steps if possible
        :param number: number of updates done before, for an error
        :param version: version of the policy's layers, from :class:`~sb3_pgx.engine.layers.Modules`
        :param follower: policy that follows the trained one, if the objective has one
        :param keep: for an update of one step, which nobody can undo: either it changes nothing where it is refused, or this
            is called before it
        """
        self._version, self.followers = version, [] if follower is None else [follower]
        update = Update(self, policy, plan, compiled, number, keep)
        try:
            yield update
            update.check_result()
        finally:
            update.store()

    def measure(self, policy: ActorCriticPolicy, batch: Rows, coefficients: Any) -> dict[str, Tensor]:
        """Return the objective's metrics at the policy's parameters."""
        return self.bound.measure(policy, batch, coefficients)

    @property
    def bound(self) -> BoundObjective:
        """The objective with the policies that follow the trained one."""
        return BoundObjective(self.objective, [f.policy for f in self.followers], self.names)

    def prepare(self, policy: ActorCriticPolicy, plan: Plan, batch: Rows) -> type[OptimizerRule] | str:
        """
        Drop the compiled graphs if anything that they were traced with has changed: layers, hooks, optimizer, coefficients.

        :return: the optimizer's rule, or the reason why there is none
        """
        optimizer = policy.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        rule = rule_of(optimizer)
        described = [*map(attrgetter("requires_grad", "dtype", "device"), parameters)]
        objects = [policy, optimizer, *(f.policy for f in self.followers), *parameters]
        versions = [self._version, *(f.modules.version for f in self.followers)]
        structure = (objects, (described, rule, plan.structure, versions))
        if not self._is_known(structure):
            self._structure = None  # after an interruption, the next update prepares again
            with left_as_it_is(policy):
                measured = self.measure(policy, batch, plan.as_tensors())
                spared = {id(p) for p in split_parameters(policy)[0].values()} if self.objective.critic_only else set()
                candidates = [p for p in parameters if p.requires_grad and id(p) not in spared]
                self.used = used(measured["loss"], candidates)
            self.has_buffers = next(policy.buffers(), None) is not None
            self.names = ["loss", *(name for name in measured if name != "loss")]
            moved = {id(p) for p in self.used}
            self.fixed = [p for p in policy.parameters() if id(p) not in moved]
            self._mixed = len({(p.dtype, p.device) for p in self.used}) > 1
            self._structure, self._graphs = structure, {}
        if isinstance(rule, str):
            return rule
        if self._mixed:
            return "the policy's parameters differ in type or device"
        if len(set(steps_taken(states_of(optimizer, self.used), rule))) > 1:
            return "the optimizer has taken more steps for some parameters than for others"
        return rule

    def _is_known(self, structure: tuple[Any, ...]) -> bool:
        """Return whether nothing has changed. Objects are compared by identity, so references to them are kept."""
        if self._structure is None:
            return False
        (objects, values), (known, known_values) = structure, self._structure
        return values == known_values and list(map(id, objects)) == list(map(id, known))

    def graph(
        self, policy: ActorCriticPolicy, plan: Plan, held: MovedParameters, lasting: Sequence[Tensor], batch: Rows, layout: Any
    ) -> Compiled | None:
        """
        Return the compiled step for such arguments, or ``None`` if it cannot be compiled.

        :param lasting: the arguments before the batch
        :param layout: signature of the batch's tensors
        """
        # Of parameters a new layout makes a new version, and the other tensors' shapes follow from what was prepared for.
        key = (type(held), signature(held.moments), layout)
        if key in self._graphs:
            return self._graphs[key]
        try:
            step = traceable_step(self.bound, policy, plan, held, batch)
            self._graphs[key] = compile_function(step, [*lasting, *batch.tensors()])
            self.tell("the gradient step is compiled")
        except NotCompilable as reason:
            self._graphs[key] = None
            self.tell(f"the gradient step runs uncompiled: {reason}")
        return self._graphs[key]

    def refuse(self, reason: str) -> None:
        """Log once that the step cannot be compiled."""
        if reason != self._refused:
            self._refused = reason
            self.tell(f"the gradient step runs uncompiled: {reason}")


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
        self.taken = 0
        self.scale, self.gate = 1.0, OPEN
        self._outcomes: list[list[float]] = []  # metrics of each minibatch seen, the gradient's norm and its clipping last
        self._before = (0, 0)  # minibatches seen and steps taken before the last epoch
        self._n_batches = 0  # of the last epoch
        self._log: StepLog | None = None  # of steps that the host has not read yet
        self._held: MovedParameters
        self._graph: Compiled | None = None
        self._lasting: list[Tensor] = []  # arguments that all steps share
        self._graphs: dict[Any, Compiled | None] = {}  # by the layout of the batch

    @property
    def stopped(self) -> bool:
        """Whether the policy has moved too far."""
        return self.gate == STOPPED

    @property
    def seen(self) -> int:
        """Number of minibatches seen."""
        return len(self._outcomes)

    @property
    def last(self) -> Metrics:
        """Metrics of the last minibatch seen."""
        return dict(zip(self.steps.names, self._outcomes[-1], strict=False))

    @property
    def last_epoch(self) -> Metrics:
        """Return :meth:`means` of the last epoch alone."""
        return self._means(*self._before)

    def means(self) -> Metrics:
        """Return means of the metrics over the minibatches seen; those of the gradient norm are over the steps taken."""
        return self._means(0, 0)

    def largest(self, name: str) -> float:
        """Return the largest value of a metric over the minibatches seen."""
        place = self.steps.names.index(name)
        return max(outcome[place] for outcome in self._outcomes)

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
        if not hasattr(self, "_held"):
            self._begin(batches[0], single=len(batches) == 1)
        self._before, self._n_batches = (self.seen, self.taken), len(batches)
        self._graph = None  # looked up once if the minibatches of an epoch have one layout
        rows = self._held.rows(self.taken, len(batches), self.steps.rows) if self._on_device else [None] * len(batches)
        try:
            with th.no_grad():
                encoded: Iterable[Rows | None] = (
                    encode(batch, self.policy) if self._is_compiled(batch) else None for batch in batches
                )
                if not has_one_hot(self.policy.observation_space):  # of many choices one batch at a time is large enough
                    encoded = list(encoded)  # faster than between the steps, which leave nothing else in the caches
                for batch, for_graph, row in zip(batches, encoded, rows, strict=True):
                    self._step(batch, for_graph, row)
        finally:
            self._read()  # also after an interruption the steps taken are counted
        if self.gate == DIVERGED:
            if self._lagging:
                self._held.store_parameters()
            raise self._not_finite(batches[self.seen - self._before[0] - 1])

    def check(self, batch: Rows) -> None:
        """
        Check that a step on a batch could be taken, without taking it.

        :raises Refusal: loss or gradient is not finite
        """
        if not hasattr(self, "_held"):
            self._begin(batch, single=True)
        with left_as_it_is(self.policy):
            measured, gradient = self._measured_gradient(batch)
            if not all(map(math.isfinite, (measured["loss"].item(), th.linalg.vector_norm(gradient)))):
                raise self._not_finite(batch)

    def check_result(self) -> None:
        """
        Check the result of all steps.

        :raises Refusal: a parameter or a moment is not finite
        """
        if hasattr(self, "_held") and not (self._irrevocable or self._held.is_finite()):
            self._check_state()
            raise led_astray(self._done)

    def store(self) -> None:
        """Write the result into policy and optimizer."""
        if hasattr(self, "_held"):
            self._read()
            self._held.store(self.taken)

    # ------------------------------------------------------------------------------------------------ one step

    def _begin(self, batch: Rows, single: bool) -> None:
        with self._refusals():
            rule = self.steps.prepare(self.policy, self.plan, batch)
        if self._keep is not None:
            self._irrevocable = single and not isinstance(rule, str) and not self.steps.has_buffers
            if not self._irrevocable:
                self._keep()
        if isinstance(rule, str):
            if self.compiled:
                self.steps.refuse(rule)
            self.compiled, self._held = False, SteppedByOptimizer(self.steps.used, self.policy.optimizer)
        else:
            kind = ParametersInPlace if self.compiled and (single or self.plan.one_by_one) else FlatParameters
            self._held = kind(self.steps.used, self.policy.optimizer, rule)
        self._device = self.steps.used[0].device
        # Where the host does not wait, gate and metrics live on the device.
        self._on_device = self.compiled or (self._device.type == "cuda" and not isinstance(rule, str))
        self._lagging = False  # whether the policy lags behind the flat vector
        if self.compiled:
            numbers = self.plan.numbers
            self._numbers = self.steps.numbers(
                (numbers, self._device), lambda: th.tensor(numbers, dtype=th.float64, device=self._device)
            )

    def _is_compiled(self, batch: Rows) -> bool:
        return self.compiled and len(batch) == self.plan.rows

    def _step(self, batch: Rows, encoded: Rows | None, row: Tensor | None) -> None:
        """
        Take one gradient step: by a compiled graph if there is one, otherwise eagerly.

        :param batch: minibatch
        :param encoded: the same for a graph, one-hot encoded; ``None``: the step is not compiled
        :param row: numbers of this step on the device, such as the learning rate; ``None``: they stay on the host
        """
        if encoded is not None and row is not None and self._compiled_step(batch, encoded, row):
            return
        flat = self._flat()
        if self._device.type == "cuda" and row is not None:
            self._device_step(flat, batch, row)
        else:
            self._read()
            if self.gate == OPEN:
                self._host_step(flat, batch)

    def _compiled_step(self, batch: Rows, encoded: Rows, row: Tensor) -> bool:
        """Take the step by its graph, which is compiled at the first call. Return false if it cannot be compiled."""
        held = self._held
        if not self._lasting:
            following = [p for f in self.steps.followers for p in f.modules.parameters.values()]
            self._lasting = [*held.pieces, *held.moments, *self.steps.fixed, *following, self._numbers]
        passing = encoded.tensors()
        if self._graph is None or not batch.alike:
            layout = signature(passing)
            if layout not in self._graphs:
                lasting = [*self._lasting, self._open_log().flags, self._open_log().outcome, row]
                self._graphs[layout] = self.steps.graph(self.policy, self.plan, held, lasting, encoded, layout)
            self._graph = self._graphs[layout]
        if self._graph is None:
            return False
        log = self._open_log()
        self._graph([*self._lasting, log.flags, log.outcome, row, *passing])
        log.advance()
        self._lagging = True
        return True

    def _flat(self) -> FlatParameters:
        """Return the parameters in one tensor, for eager steps; they are up to date with the graph's."""
        if not isinstance(self._held, FlatParameters):
            self._read()  # the steps that it counts
            self._lasting, self._graphs, self._graph = [], {}, None
        self._held = flat = self._held.flat(self.taken)
        if self._lagging:
            flat.store_parameters()
            self._lagging = False
        return flat

    def _device_step(self, flat: FlatParameters, batch: Rows, row: Tensor) -> None:
        """Take an eager step on the device, where flags decide whether it counts: the host does not wait for its numbers."""
        plan = self.plan
        measured, gradient = self._measured_gradient(batch)
        distance, parts = self.steps.bound.distance(measured), [measured[name] for name in self.steps.names]
        theta, moments, scalars = [flat.theta], [[moment] for moment in flat.moments], row.unbind()
        flags, outcome, limits = self._open_log().flags, self._open_log().outcome, plan.limits
        step = (flat.rule, flags, outcome, theta, moments, [gradient], parts, distance, limits, scalars, plan.adapt)
        go, _ = gated_step(*step, irrevocable=self._irrevocable)
        self._open_log().advance()
        flat.store_parameters()
        self._follow(go)

    def _host_step(self, flat: FlatParameters, batch: Rows) -> None:
        """Take an eager step whose numbers the host reads at once, which is faster than masking on the CPU."""
        measured, gradient = self._measured_gradient(batch)
        norm = th.linalg.vector_norm(gradient)
        values = th.stack([*(measured[name] for name in self.steps.names), norm]).tolist()
        *parts, length = values
        self._outcomes.append([*parts, 0.0, 0.0])
        self.gate = verdict(values, None if self.steps.objective.distance is None else self.distance, self.plan.limits)
        if self.gate == OPEN:
            if self.plan.adapt is not None:
                scale, distance = th.tensor([self.scale, self.distance], dtype=th.float64)
                self.scale = self.plan.adapt(scale, distance, *self.plan.adapt_numbers).item()
            gradient.mul_(min(1.0, self.plan.limits[MAX_GRAD_NORM] / (length + 1e-6)))
            flat.take(gradient, self.taken + 1, self.scale)
            if self._irrevocable and not flat.is_finite():
                flat.take_back()
                self.gate = DIVERGED
                return
            self.taken += 1
            self._outcomes[-1][-2:] = [length, float(length > self.plan.limits[MAX_GRAD_NORM])]
            flat.store_parameters()
            self._follow()

    def _follow(self, go: Tensor | None = None) -> None:
        for follower in self.steps.followers:
            assert self.steps.objective.follows is not None
            follow(follower.pairs(), self.steps.objective.follows, self.plan.coefficients, go)

    def _measured_gradient(self, batch: Rows) -> tuple[dict[str, Tensor], Tensor]:
        with th.enable_grad(), self._refusals():
            measured = self.steps.measure(self.policy, batch, self.plan.coefficients)
        return measured, flatten(gradients_of_loss(measured["loss"], self.steps.used))

    @property
    def _done(self) -> int:
        """Number of updates done, for an error."""
        return self._number + self.taken * self.plan.one_by_one

    def _refusals(self) -> AbstractContextManager[None]:
        """Turn errors of torch's distributions (NaN, a standard deviation of 0) into the refusal of a step."""
        return blaming_numbers(self._refusal, lambda: f"while the policy learned, in update {self._done + 1}")

    def _refusal(self, what: str) -> ValueError:
        self._read()
        self._check_state()
        return refused(f"the policy failed ({what})", self._done)

    # ------------------------------------------------------------------------------------------------ results

    def _open_log(self) -> StepLog:
        if self._log is None:
            n_metrics = len(self.steps.names) + 2
            self._log = StepLog(self.gate, self.scale, self._n_batches, n_metrics, self._device, self.steps.flags)
        return self._log

    def _read(self) -> None:
        """Read the log and close it. This is the only place where the host waits."""
        if self._log is not None:
            self.gate, taken, self.scale, outcomes = self._log.read()
            self.taken += taken
            self._outcomes += outcomes
            self._log = None

    def _not_finite(self, batch: Rows) -> ValueError:
        """Repeat the step at the parameters before it, to find what is not finite."""
        self._check_state()
        with self._refusals():
            measured = self.steps.measure(self.policy, batch, self.plan.coefficients)
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
        *sums, norms, clipped = map(sum, zip(*self._outcomes[seen:], strict=True))
        named = {name: value / n for name, value in zip(self.steps.names, sums, strict=True)}
        return {**named, "grad_norm": norms / n_taken, "grad_clipped": clipped / n_taken} if n_taken else named


def encode(batch: Rows, policy: ActorCriticPolicy) -> Rows:
    """
    Return a batch as a graph takes it: parts of a dictionary in the order of the space, one-hot encoded. Encoding reads
    values, which a trace cannot do.
    """
    batch, space = batch.in_fixed_shapes(), policy.observation_space
    if not (has_one_hot(space) or isinstance(space, spaces.Dict)):
        return batch
    return batch.with_observations(lambda x: one_hot(x, space))  # in the order of the space
