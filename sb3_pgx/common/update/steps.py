"""The gradient steps of a first-order algorithm, epoch by epoch: eager, or compiled where that is wanted and possible."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.common.compiling import Compiled, NotCompilable, compile_function, signature
from sb3_pgx.common.distributions import has_one_hot, one_hot, packed
from sb3_pgx.common.rollout import Batch, as_policy_input
from sb3_pgx.common.update.eager import not_finite
from sb3_pgx.common.update.flat import ByOptimizer, Flat, steps_taken
from sb3_pgx.common.update.plan import Plan
from sb3_pgx.common.update.rules import Rule, rule_of
from sb3_pgx.common.update.step import DIVERGED, OPEN, STOPPED, Evaluation, Objective, flat_gradient, gated_step, used
from sb3_pgx.common.update.tracing import traceable_step

Metrics = dict[str, float]


class GradientSteps:
    """
    The steps of one algorithm on one objective, and the graphs that were compiled for them.

    :param objective: what they descend on
    :param tell: takes one sentence about compiling
    """

    def __init__(self, objective: Objective, tell: Callable[[str], None] = lambda sentence: None):
        self.objective, self.tell = objective, tell
        self.names: list[str] = []  # of what the objective measures
        self.used: list[nn.Parameter] = []  # those that the optimizer moves
        self._structure: Any = None
        self._kept: list[Any] = []  # what the structure knows by its id must stay alive
        self._graphs: dict[Any, Compiled | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "used": [], "_structure": None, "_kept": [], "_graphs": {}}

    @contextmanager
    def update(self, policy: ActorCriticPolicy, plan: Plan, compiled: bool, number: int) -> Iterator["Update"]:
        """
        One update. Policy and optimizer hold its result when the context ends, by an exception, too.

        :param policy: in training mode
        :param plan: what to do
        :param compiled: run compiled if it is possible
        :param number: of updates done before, for an error
        """
        update = Update(self, policy, plan, compiled, number)
        try:
            yield update
        finally:
            update.store()

    def measure(self, policy: ActorCriticPolicy, batch: Batch, coefficients: Any) -> dict[str, Tensor]:
        """The objective at the policy's parameters."""
        actions = as_policy_input(batch.actions, policy.action_space)
        values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
        distribution = packed(policy.action_dist) if self.objective.reads_distribution else None
        now = Evaluation(values.flatten(), log_prob, -log_prob if entropy is None else entropy, distribution)
        return self.objective.measure(now, batch, coefficients)

    def distance(self, measured: dict[str, Tensor]) -> Tensor | None:
        """How far the policy has moved, if the objective says so."""
        return None if self.objective.distance is None else measured[self.objective.distance]

    def prepare(self, policy: ActorCriticPolicy, plan: Plan, batch: Batch) -> type[Rule] | str:
        """
        Look at all that the graphs have built in, and forget them if any of it has changed.

        :return: the optimizer's rule, or the reason why it has none
        """
        parameters = [p for group in policy.optimizer.param_groups for p in group["params"]]
        rule = rule_of(policy.optimizer)
        described = tuple((id(p), p.requires_grad, p.dtype, p.device) for p in parameters)
        structure = (id(policy), described, rule, plan.structure)
        if structure != self._structure:
            measured = self.measure(policy, batch, plan.coefficients)
            self.names, self.used = list(measured), used(measured["loss"], [p for p in parameters if p.requires_grad])
            self._structure, self._kept, self._graphs = structure, [policy, *parameters], {}
        if isinstance(rule, str):
            return rule
        if len({(p.dtype, p.device) for p in self.used}) > 1:
            return "the policy's parameters differ in type or device"
        if len({steps_taken(policy.optimizer.state.get(p, {}), rule) for p in self.used}) > 1:
            return "the optimizer has taken more steps for some parameters than for others"
        return rule

    def graph(
        self, policy: ActorCriticPolicy, plan: Plan, rule: type[Rule], batch: Batch, arguments: Sequence[Tensor]
    ) -> Compiled | None:
        """The compiled step for batches like this one, or ``None`` where there is none."""
        key = signature(batch.tensors())
        if key in self._graphs:
            return self._graphs[key]
        if self._graphs:  # the last, smaller minibatch of an epoch is not worth a graph of its own
            return None
        try:
            self._graphs[key] = compile_function(traceable_step(self, policy, plan, rule, batch), arguments)
            self.tell("the gradient step is compiled")
        except NotCompilable as reason:
            self._graphs[key] = None
            self.tell(f"the gradient step runs uncompiled: {reason}")
        return self._graphs[key]

    def refuse(self, reason: str) -> None:
        """Say once that nothing can be compiled."""
        if not self._graphs:
            self._graphs[()] = None
            self.tell(f"the gradient step runs uncompiled: {reason}")


class Update:
    """
    One update under way: epochs of minibatches, until the policy has moved too far.

    ``stopped`` says whether it has, ``taken`` how many steps were taken, ``scale`` by what a controller has multiplied the
    learning rate. ``last`` are the metrics of the last minibatch seen, ``last_epoch`` the means over the last epoch.
    """

    def __init__(self, steps: GradientSteps, policy: ActorCriticPolicy, plan: Plan, compiled: bool, number: int):
        self.steps, self.policy, self.plan, self.compiled, self.number = steps, policy, plan, compiled, number
        self.seen = self.taken = 0
        self.scale, self.stopped = 1.0, False
        self.last: Metrics = {}
        self.last_epoch: Metrics = {}
        self._totals: list[float] = []
        self._report: Tensor | None = None  # of an epoch that has not been read yet
        self._flat: Flat

    def means(self) -> Metrics:
        """Of every metric over the minibatches seen, and of ``grad_norm`` over the steps taken."""
        return self._named(self._totals, self.seen, self.taken)

    @property
    def distance(self) -> float:
        """Of the policy from the one that acted, at the last minibatch seen."""
        assert self.steps.objective.distance is not None
        return self.last[self.steps.objective.distance]

    def epoch(self, batches: Iterable[Batch]) -> None:
        """
        A step for each minibatch; reads once, at the end, what became of them.

        :raises ValueError: a loss or a gradient is not finite; the parameters are those before that step
        """
        batches = list(batches)
        if not hasattr(self, "_flat"):
            self._begin(batches[0])
        flat, seen = self._flat, self.seen
        n_metrics = len(self.steps.names) + 1  # and the norm of the gradient
        start = [OPEN, 0.0, 0.0, self.scale, *[0.0] * (2 * n_metrics)]
        self._report = th.tensor(start, dtype=th.float64, device=flat.theta.device)
        for batch, row in zip(batches, flat.rows(self.taken, len(batches)), strict=True):
            self._step(batch, row)
        gate = self._read()
        self.stopped = gate == STOPPED
        if gate == DIVERGED:
            self.store()
            raise self._not_finite(batches[self.seen - seen - 1])

    def store(self) -> None:
        """Write what has been reached into policy and optimizer."""
        if not hasattr(self, "_flat"):
            return
        if self._report is not None:
            self._read()
        self._flat.store(self.taken)
        self._stale = False

    # ------------------------------------------------------------------------------------------------ one step

    def _begin(self, batch: Batch) -> None:
        rule = self.steps.prepare(self.policy, self.plan, batch)
        if isinstance(rule, str):
            if self.compiled:
                self.steps.refuse(rule)
            self.compiled, self._flat = False, ByOptimizer(self.steps.used, self.policy.optimizer)
        else:
            self._flat = Flat(self.steps.used, self.policy.optimizer, rule)
        self._stale = False  # whether the policy lags behind the flat vector
        if self.compiled:
            self._numbers = self._flat.theta.new_tensor(self.plan.numbers, dtype=th.float64)
            moved = {id(p) for p in self.steps.used}
            self._fixed = [p.detach() for p in self.policy.parameters() if id(p) not in moved]

    def _step(self, batch: Batch, row: Tensor) -> None:
        if self.compiled:
            encoded = encode(batch, self.policy)
            assert self._report is not None
            arguments = [self._flat.theta, self._report, row, self._numbers, *self._flat.moments, *self._fixed]
            arguments += encoded.tensors()
            function = self.steps.graph(self.policy, self.plan, self._flat.rule, encoded, arguments)
            if function is not None:
                function(arguments)
                self._stale = True
                return
        self._eager_step(batch, row)

    def _eager_step(self, batch: Batch, row: Tensor) -> None:
        flat, report, limits = self._flat, self._report, self.plan.limits
        assert report is not None
        if self._stale:
            flat.store_parameters()
            self._stale = False
        measured = self.steps.measure(self.policy, batch, self.plan.coefficients)
        gradient = flat_gradient(measured["loss"], flat.parameters)
        with th.no_grad():
            distance = self.steps.distance(measured)
            parts = [measured[name] for name in self.steps.names]
            gated_step(
                flat.rule, report, flat.theta, flat.moments, gradient, parts, distance, limits, row.unbind(), self.plan.adapt
            )
            flat.settle(gradient, report, limits)

    # ------------------------------------------------------------------------------------------------ what became of it

    def _read(self) -> float:
        """The gate at the end of the epoch; the one transfer from the device."""
        assert self._report is not None
        gate, seen, taken, self.scale, *values = self._report.tolist()
        self._report = None
        sums, last = values[: len(values) // 2], values[len(values) // 2 :]
        self.seen, self.taken = self.seen + int(seen), self.taken + int(taken)
        self._totals = [a + b for a, b in zip(self._totals, sums, strict=True)] if self._totals else sums
        self.last, self.last_epoch = self._named(last, 1, 1), self._named(sums, seen, taken)
        return gate

    def _not_finite(self, batch: Batch) -> ValueError:
        """Does the step once more, at the parameters before it, to see what went wrong."""
        measured = self.steps.measure(self.policy, batch, self.plan.coefficients)
        pieces = th.autograd.grad(measured["loss"], self.steps.used)
        names = {id(p): name for name, p in self.policy.named_parameters()}
        gradients = {f"gradient of {names[id(p)]}": g for p, g in zip(self.steps.used, pieces, strict=True)}
        inputs = {"advantages": batch.advantages, "returns": batch.returns}
        parts = {name: value for name, value in measured.items() if name != "loss"}
        return not_finite({**inputs, **parts, "loss": measured["loss"], **gradients}, self.number)

    def _named(self, sums: Sequence[float], seen: float, taken: float) -> Metrics:
        named = {name: value / max(seen, 1) for name, value in zip(self.steps.names, sums, strict=False)}
        return {**named, "grad_norm": sums[-1] / taken} if taken else named


def encode(batch: Batch, policy: ActorCriticPolicy) -> Batch:
    """One-hot encoding reads values, which a trace cannot do: it comes first."""
    if not has_one_hot(policy.observation_space):
        return batch
    return replace(batch, observations=one_hot(batch.observations, policy.observation_space))
