"""A policy's parameters and its optimizer's moments for the time of one update: as flat vectors, or where they are."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.optim import Optimizer

from sb3_pgx.engine.compiler import Remembered
from sb3_pgx.engine.optimizers import Rule, Untouched
from sb3_pgx.engine.tensors import copy_all, flatten, unflatten


class Held(ABC):
    """
    The parameters that an update moves, and what their optimizer keeps for them.

    A compiled step changes ``pieces`` and ``moments`` in place: the parameters, and likewise the first of the rule's moments,
    then the next. ``step`` counts the steps that were taken before.

    :param parameters: all of one dtype and device
    :param optimizer: theirs
    :param rule: what the optimizer does
    """

    pieces: Sequence[Tensor]
    moments: Sequence[Tensor]

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, rule: type[Rule]):
        self.parameters, self.optimizer, self.rule = list(parameters), optimizer, rule
        self._states = states_of(optimizer, parameters)
        (self.step,) = steps_taken(self._states[:1], rule)

    def rows(self, taken: int, n: int, remembered: Remembered) -> Sequence[Tensor]:
        """
        The rule's scalars for the next ``n`` steps, one vector a step.

        :param taken: steps since this was made
        :param remembered: for the vector of a rule that has the same for each step
        """
        (group,) = self.optimizer.param_groups
        first, like = self.step + taken + 1, self.parameters[0]
        scalars = [(*map(float, self.rule.scalars(group, t)),) for t in range(first, first + n)]
        if len(set(scalars)) > 1:
            return like.new_tensor(scalars).unbind()
        return [remembered((scalars[0], like.dtype, like.device), lambda: like.new_tensor(scalars[0]))] * n

    def is_finite(self) -> bool:
        """Whether parameters and moments are. Those that the gate of a step has looked at are."""
        return True

    @abstractmethod
    def flat(self, taken: int) -> "Flat":
        """
        The same as flat vectors.

        :param taken: steps since this was made
        """

    @abstractmethod
    def store_parameters(self) -> None:
        """Leave the parameters to the policy."""

    @abstractmethod
    def store(self, steps: int) -> None:
        """
        Leave parameters and moments to the policy, in the format of torch's optimizer.

        :param steps: how many were taken since this was made
        """

    def _create(self, moments: Mapping[str, Sequence[Tensor]], steps: int) -> None:
        """The optimizer's state of each parameter, of which there was none."""
        for i, p in enumerate(self.parameters):
            self.optimizer.state[p] = {**self.rule.new_count(steps), **{name: values[i] for name, values in moments.items()}}
        self._states = states_of(self.optimizer, self.parameters)

    def _count(self, steps: int) -> None:
        """The number of steps, ``steps`` more than before, in the optimizer's state of each parameter."""
        total = self.step + steps
        counts = [state["step"] for state in self._states if "step" in state]
        if counts and isinstance(counts[0], Tensor):
            copy_all(counts, [th.full_like(counts[0], total)] * len(counts))
        elif counts:
            for state in self._states:
                state["step"] = total


class Flat(Held):
    """
    Copies of the parameters, ``[P]``, and of their moments, ``[P]`` each.

    Copies, not views: whatever replaces, moves, freezes or loads parameters between two updates need not know of them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, rule: type[Rule]):
        super().__init__(parameters, optimizer, rule)
        self._data = [p.detach() for p in parameters]
        self.theta = flatten(self._data) if len(self._data) > 1 else self._data[0].flatten().clone()
        self._views = unflatten(self.theta, self._data)
        self.pieces, self.moments = [self.theta], [self._gather(name) for name in rule.moments]

    def _gather(self, name: str) -> Tensor:
        if self.step == 0:
            return th.full_like(self.theta, self.rule.initial)
        return flatten([state[name] for state in self._states])

    def is_finite(self) -> bool:
        return all(map(all_finite, (self.theta, *self.moments)))

    def flat(self, taken: int) -> "Flat":
        return self

    def take(self, gradient: Tensor, number: int, scale: float) -> None:
        """
        Take a step; the policy gets its result from :meth:`store_parameters`.

        :param gradient: clipped, ``[P]``
        :param number: of the step since this was made, from 1
        :param scale: factor of the learning rate
        """
        (group,) = self.optimizer.param_groups
        scaled = {**group, "lr": scale * group["lr"]}
        self.rule.step_(self.theta, gradient, self.moments, scaled, self.step + number)

    def take_back(self) -> None:
        """Forget the first step, whose result nobody has got."""
        self.theta.copy_(flatten(self._data))

    def store_parameters(self) -> None:
        copy_all(self._data, self._views)

    def store(self, steps: int) -> None:
        self.store_parameters()
        if steps == 0 or not self.rule.moments:
            return
        pieces = {name: unflatten(moment, self._data) for name, moment in zip(self.rule.moments, self.moments, strict=True)}
        if self.step == 0:
            self._create({name: [x.clone() for x in values] for name, values in pieces.items()}, steps)
            return
        for name, values in pieces.items():
            copy_all([state[name] for state in self._states], values)
        self._count(steps)


class InPlace(Held):
    """
    The parameters and moments themselves: where the update is a step or a few, copies would cost as much as a step.

    Moments of which there are none yet are created, and taken back where no step follows.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, rule: type[Rule]):
        super().__init__(parameters, optimizer, rule)
        if self.step == 0 and rule.moments:
            data = [p.detach() for p in parameters]
            self._create({name: [th.full_like(x, rule.initial) for x in data] for name in rule.moments}, 0)
        self.pieces, self.moments = self.parameters, [state[name] for name in rule.moments for state in self._states]

    def flat(self, taken: int) -> Flat:
        self.store(taken)
        flat = Flat(self.parameters, self.optimizer, self.rule)
        flat.step = self.step  # from which its steps are counted
        return flat

    def store_parameters(self) -> None:
        """They are there."""

    def store(self, steps: int) -> None:
        if steps > 0:
            self._count(steps)
        elif self.step == 0:
            for p in self.parameters:
                self.optimizer.state.pop(p, None)


class ByOptimizer(Flat):
    """For an optimizer without a rule: it takes the step itself, on the policy, and the host waits for every one."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer):
        super().__init__(parameters, optimizer, Untouched)

    def take(self, gradient: Tensor, number: int, scale: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # a callback may have left gradients behind
        for p, piece in zip(self.parameters, unflatten(gradient, self._data), strict=True):
            p.grad = piece.to(p.dtype)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= scale
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)

    def store_parameters(self) -> None:
        """They are there."""

    def is_finite(self) -> bool:
        return all(all_finite(p) for p in self.parameters) and bad_state(self.optimizer, self.parameters) is None

    def store(self, steps: int) -> None:
        """The optimizer has."""


def states_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """What the optimizer keeps for each parameter; empty where it has not taken a step."""
    return [optimizer.state.get(p, {}) for p in parameters]


def bad_state(optimizer: Optimizer, parameters: Iterable[Tensor]) -> tuple[Tensor, str] | None:
    """A parameter and the name of what the optimizer keeps for it that is not finite, if there is one."""
    for p in parameters:
        for name, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor) and not all_finite(value):
                return p, name
    return None


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite; the sum is a quick test, which only an overflow fails without one."""
    return math.isfinite(x.detach().sum()) or bool(th.isfinite(x).all())


def steps_taken(states: Sequence[Mapping[str, Any]], rule: type[Rule]) -> list[int]:
    """How many steps the states of parameters stand for; one where the optimizer keeps no count but moments."""
    first = next(iter(rule.moments), None)
    begun = [first is None or state.get(first) is not None for state in states]
    return [int(state.get("step", first is not None)) if known else 0 for state, known in zip(states, begun, strict=True)]
