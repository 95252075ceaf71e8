"""The gradient steps of an algorithm that trains several networks at once, eager or as compiled graphs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from sb3_pgx.core.checks import is_number
from sb3_pgx.core.tensors import copy_all, flatten
from sb3_pgx.core.undo import options_of, tensors_of
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import Compiled, signature
from sb3_pgx.engine.drawn_noise import Draw, GivenDraws, NotedDraws
from sb3_pgx.engine.joint_step import JointStep, Mover, Networks, OptimizersStep, Step, Stepped
from sb3_pgx.engine.optimizers import OptimizerRule, rule_of
from sb3_pgx.engine.parameters import ParametersInPlace, states_of, steps_taken
from sb3_pgx.engine.policy_function import check_traceable, laid_out, left_as_it_is, unvalidated
from sb3_pgx.engine.step import zero_if_finite
from sb3_pgx.engine.trace import Function

# Takes a step that has not begun, a batch, and coefficients. Returns metrics, tensors without dimensions, and numbers of each
# row of the batch, tensors with one dimension.
StepFunction = Callable[[Step, Any, Any], Mapping[str, Tensor]]
Outcome = dict[str, Any]  # metrics, floats, and lists of one float per row, by name


class NotFiniteError(Exception):
    """A gradient step that was not taken, because its result would not be finite. ``metrics`` are the step's."""

    def __init__(self, metrics: Outcome):
        super().__init__()
        self.metrics = metrics


class _Graph(NamedTuple):
    """A compiled step, the shapes of its metrics, the optimizers that it moves, and the random numbers that it takes."""

    run: Compiled
    shapes: Mapping[str, th.Size]
    moved: Sequence[str]
    draws: Sequence[Draw]


class JointSteps:
    """
    The gradient steps of one algorithm.

    :param what: name of a step in the log
    :param log: of what is compiled
    """

    def __init__(self, what: str, log: CompileLog):
        self.what, self.log = what, log
        self._structure: tuple[list[Any], Any] | None = None
        self._networks: Networks
        self._held: dict[str, ParametersInPlace] = {}  # by optimizer
        self._states: list[Any] = []
        self._graphs: dict[Any, _Graph | None] = {}
        self._optimizers: Mapping[str, Optimizer] | None = None  # which themselves take the steps, if they must

    def __getstate__(self) -> dict[str, Any]:
        return vars(JointSteps(self.what, self.log))

    def prepare(
        self, policy: BasePolicy, version: int, others: Mapping[str, Tensor], optimizers: Mapping[str, Optimizer]
    ) -> str | None:
        """
        Find out which parameters move, and drop the graphs if anything that they were traced with has changed.

        :param policy: contains the networks
        :param version: of the policy's layers, from :class:`~sb3_pgx.engine.layers.Modules`
        :param others: values besides the policy's parameters that a step reads or moves, by name
        :param optimizers: by name
        :return: reason why the optimizers themselves must take the steps; ``None`` if there is none
        """
        given = {name: [p for group in o.param_groups for p in group["params"]] for name, o in optimizers.items()}
        rules = {name: rule_of(optimizer) for name, optimizer in optimizers.items()}
        moved = [*chain.from_iterable(given.values())]
        objects = [policy, *optimizers.values(), *others.values(), *moved]
        structure = (objects, (version, rules, [*map(attrgetter("requires_grad"), moved)]))
        if not _same(structure, self._structure):
            self._structure, self._graphs = structure, {}
            self._networks = Networks(policy, {**dict(policy.named_parameters()), **others})
            self._names = {id(p): name for name, p in self._networks.held.items()}
            self._values = [*self._networks.held.values()]
            self._held = {}
        reason = next((rule for rule in rules.values() if isinstance(rule, str)), None)
        if reason is None and not self._holds(optimizers):
            reason = self._hold(optimizers, given, rules)  # type: ignore[arg-type]
        self._optimizers = None if reason is None else optimizers
        return reason

    def _holds(self, optimizers: Mapping[str, Optimizer]) -> bool:
        """Return whether the optimizers keep the moments that were held last. Loading their state replaces them."""
        states = chain.from_iterable(states_of(optimizers[name], held.parameters) for name, held in self._held.items())
        return bool(self._held) and all(map(is_, states, self._states))

    def _hold(
        self,
        optimizers: Mapping[str, Optimizer],
        given: Mapping[str, Sequence[nn.Parameter]],
        rules: Mapping[str, type[OptimizerRule]],
    ) -> str | None:
        self._held = {}
        trained = {name: moved for name, ps in given.items() if (moved := [p for p in ps if p.requires_grad])}
        if any(len(set(steps_taken(states_of(optimizers[name], ps), rules[name]))) > 1 for name, ps in trained.items()):
            return "an optimizer has taken more steps for some parameters than for others"
        self._held = {name: ParametersInPlace(ps, optimizers[name], rules[name]) for name, ps in trained.items()}
        self._states = [s for name, held in self._held.items() for s in states_of(optimizers[name], held.parameters)]
        self._moments = [x for held in self._held.values() for x in held.moments]
        return None

    def take(self, function: StepFunction, batch: Any, coefficients: Any, compiled: bool) -> Outcome:
        """
        Take one gradient step.

        :param function: the step
        :param batch: named tuple of tensors, dictionaries of tensors, and ``None``
        :param coefficients: named tuple. Its numbers may change without recompiling; all else in it is part of a graph
        :param compiled: whether to compile the step if possible
        :return: what the function returns, as numbers
        :raises NotFiniteError: the result would not be finite; nothing has changed
        """
        if self._optimizers is not None:
            return self._by_optimizers(self._optimizers, function, batch, coefficients)
        graph = self._graph(function, batch, coefficients) if compiled else None
        if graph is None:
            outcome, moved = self._eagerly(function, batch, coefficients)
        else:
            outcome, moved = self._run(graph, batch, coefficients), graph.moved
        for name in moved:
            held = self._held[name]
            held.store(1)
            held.step += 1
        return outcome

    def _by_optimizers(
        self, optimizers: Mapping[str, Optimizer], function: StepFunction, batch: Any, coefficients: Any
    ) -> Outcome:
        held, policy = self._networks.held, self._networks.policy
        options = [options_of(optimizer) for optimizer in optimizers.values()]  # where some keep numbers that they adapt
        put_back = [*options, tensors_of([*held.values(), *policy.buffers()], optimizers.values())]
        try:
            step = OptimizersStep(policy, held, optimizers)
            return _checked(function(step, batch, coefficients), step.check())
        except BaseException:
            for restore in put_back:
                restore()
            raise

    # ------------------------------------------------------------------------------------------------ eager

    def _eagerly(self, function: StepFunction, batch: Any, coefficients: Any) -> tuple[Outcome, Iterable[str]]:
        """Take the step, and return its outcome and the names of the optimizers that it has moved."""
        held, put_back = self._networks.held, tensors_of([*self._networks.policy.buffers()], [])
        step = JointStep(self._networks, held, self._movers(self._moments, self._steps_on_host()))
        try:
            outcome = _checked(function(step, batch, coefficients), step.check())
        except BaseException:
            put_back()  # a forward pass changes the statistics of BatchNorm
            raise
        with th.no_grad():
            copy_all(*self._before_and_after(step, held, self._moments))
        return outcome, step.moments

    def _steps_on_host(self) -> Iterator[Stepped]:
        for held in self._held.values():
            (group,) = held.optimizer.param_groups
            yield partial(held.rule.stepped, group=group, number=held.step + 1)

    def _movers(self, moments: Sequence[Tensor], steps: Iterable[Stepped]) -> dict[str, Mover]:
        """Return the optimizers as functions, from what they hold, in the order of ``_moments``, and from their steps."""
        return {
            name: Mover([self._names[id(p)] for p in self._held[name].parameters], kept, stepped)
            for (name, kept), stepped in zip(self._grouped(moments).items(), steps, strict=True)
        }

    def _grouped(self, moments: Sequence[Tensor]) -> dict[str, list[tuple[Tensor, ...]]]:
        """Return the moments of each parameter, by optimizer."""
        grouped, left = {}, iter(moments)
        for name, held in self._held.items():
            by_moment = [[next(left) for _ in held.parameters] for _ in held.rule.moments]
            grouped[name] = [*zip(*by_moment, strict=True)] or [()] * len(held.parameters)
        return grouped

    def _before_and_after(
        self, step: JointStep, values: Mapping[str, Tensor], moments: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors that a complete step changes, and what it makes of them."""
        pairs = [(values[name], step.values[name]) for name in step.changed()]
        for name, kept in self._grouped(moments).items():
            after = chain.from_iterable(step.moments.get(name, kept))
            pairs += [(old, new) for old, new in zip(chain.from_iterable(kept), after, strict=True) if old is not new]
        return [old for old, _ in pairs], [new for _, new in pairs]

    # ------------------------------------------------------------------------------------------------ compiled

    def _graph(self, function: StepFunction, batch: Any, coefficients: Any) -> _Graph | None:
        """Return the compiled step on such batches; ``None`` if it cannot be compiled."""
        structure = ["number" if is_number(c) else c for c in coefficients]
        key = (function, *structure, signature(flat(batch)))
        if key not in self._graphs:
            shapes: dict[str, th.Size] = {}
            moved: list[str] = []
            draws: list[Draw] = []

            def traceable() -> Function:
                check_traceable(self._networks.policy)
                draws.extend(self._noted_draws(function, batch, coefficients))
                return self._traceable(function, batch, coefficients, len(draws), shapes, moved)

            def examples() -> list[Tensor]:
                return self._arguments(batch, coefficients, draws)

            run = self.log.compile(self.what, traceable, examples)
            self._graphs[key] = None if run is None else _Graph(run, shapes, moved, draws)
        return self._graphs[key]

    def _run(self, graph: _Graph, batch: Any, coefficients: Any) -> Outcome:
        with th.no_grad():
            (numbers,) = graph.run(self._arguments(batch, coefficients, graph.draws))
        *numbers, check = numbers.tolist()
        outcome = _shaped(graph.shapes, numbers)
        if check != 0:
            raise NotFiniteError(outcome)
        return outcome

    def _arguments(self, batch: Any, coefficients: Any, draws: Sequence[Draw]) -> list[Tensor]:
        numbers = [*filter(is_number, coefficients), *chain.from_iterable(self._scalars())]
        like = self._values[0]
        tensor = th.tensor(numbers, dtype=like.dtype, device=like.device)
        return [*self._values, *self._moments, tensor, *(draw() for draw in draws), *flat(batch)]

    def _scalars(self) -> Iterator[Sequence[float]]:
        for held in self._held.values():
            (group,) = held.optimizer.param_groups
            yield held.rule.scalars(group, held.step + 1)

    def _noted_draws(self, function: StepFunction, batch: Any, coefficients: Any) -> Sequence[Draw]:
        """Return the random numbers that a step draws. It is taken without keeping its result."""
        movers = self._movers(self._moments, self._steps_on_host())
        with left_as_it_is(self._networks.policy), NotedDraws() as noted, unvalidated(self._networks.policy), th.enable_grad():
            function(JointStep(self._networks, self._networks.held, movers), batch, coefficients)
        return noted.draws

    def _traceable(
        self, function: StepFunction, batch: Any, coefficients: Any, n_draws: int, shapes: dict[str, th.Size], moved: list[str]
    ) -> Function:
        """
        Return the step as a function of :meth:`_arguments` that changes values and moments in place. When it is called, it
        fills in the shapes of its metrics and the names of the optimizers that it moves.
        """
        keys, n_values, n_moments = [*self._networks.held], len(self._values), len(self._moments)
        lengths = [len(scalars) for scalars in self._scalars()]

        def run(*tensors: Tensor) -> tuple[Tensor]:
            before = dict(zip(keys, tensors, strict=False))
            moments, (numbers, *rest) = tensors[n_values:][:n_moments], tensors[n_values:][n_moments:]
            left = iter(numbers.unbind())
            c = type(coefficients)(*(next(left) if is_number(x) else x for x in coefficients))
            scalars = [[next(left) for _ in range(length)] for length in lengths]
            values = {name: x.detach().requires_grad_(True) for name, x in laid_out(before).items()}
            with GivenDraws(rest[:n_draws]), unvalidated(self._networks.policy), th.enable_grad():
                steps = [_with_scalars(held.rule, s) for held, s in zip(self._held.values(), scalars, strict=True)]
                step = JointStep(self._networks, values, self._movers(moments, steps))
                metrics = function(step, rebuilt(batch, iter(rest[n_draws:])), c)
            measured = flatten([x.detach() for x in metrics.values()])
            check = step.check() + zero_if_finite(measured)
            shapes.update({name: x.shape for name, x in metrics.items()})
            moved[:] = step.moments
            for old, new in zip(*self._before_and_after(step, before, moments), strict=True):
                old.copy_(th.where(check == 0, new.detach(), old))
            return (th.cat([measured, check.reshape(1)]),)

        return run


def _checked(metrics: Mapping[str, Tensor], check: Tensor) -> Outcome:
    """
    Return what a step returned, as numbers.

    :param check: 0 if the step is finite
    :raises NotFiniteError: it is not, or a number is not
    """
    *numbers, check_number = flatten([*(x.detach() for x in metrics.values()), check]).tolist()
    outcome = _shaped({name: x.shape for name, x in metrics.items()}, numbers)
    if not all(map(math.isfinite, (*numbers, check_number))):
        raise NotFiniteError(outcome)
    return outcome


def _shaped(shapes: Mapping[str, th.Size], numbers: Sequence[float]) -> Outcome:
    left = iter(numbers)
    return {name: [*islice(left, shape.numel())] if shape else next(left) for name, shape in shapes.items()}


def _with_scalars(rule: type[OptimizerRule], scalars: Sequence[Any]) -> Stepped:
    """Return a rule's step with scalars that are tensors."""
    return lambda values, gradients, moments: [
        rule.step(*of_one, scalars) for of_one in zip(values, gradients, moments, strict=True)
    ]


def flat(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch: a named tuple of tensors, dictionaries of tensors, and ``None``."""
    tensors: list[Tensor] = []
    for part in batch:
        if isinstance(part, dict):
            tensors += part.values()
        elif part is not None:
            tensors.append(part)
    return tensors


def rebuilt(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a batch like the given one from other tensors, in the order of :func:`flat`."""
    parts: list[Any] = []
    for part in batch:
        if isinstance(part, dict):
            parts.append({key: next(tensors) for key in part})
        else:
            parts.append(None if part is None else next(tensors))
    return type(batch)(*parts)


def _same(structure: tuple[list[Any], Any], known: tuple[list[Any], Any] | None) -> bool:
    """Return whether nothing has changed; objects are compared by identity."""
    if known is None:
        return False
    return structure[1] == known[1] and list(map(id, structure[0])) == list(map(id, known[0]))
