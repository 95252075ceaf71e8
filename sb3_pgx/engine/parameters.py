"""A policy's parameters and its optimizer's moments during one update, as flat vectors or in place."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.optim import Optimizer

from sb3_pgx.core.tensors import copy_all, flatten, unflatten
from sb3_pgx.engine.compiler import Remembered
from sb3_pgx.engine.optimizers import OptimizerRule


class HeldParameters(ABC):
    """
    The parameters that an update moves, while it moves them.

    ``irrevocable`` says that there is one step, which nobody can undo: it is not taken if its result would not be finite.
    """

    parameters: Sequence[nn.Parameter]
    irrevocable = False

    @abstractmethod
    def is_finite(self) -> bool:
        """Return whether parameters and moments are finite."""

    @abstractmethod
    def eager(self, taken: int) -> "EagerParameters":
        """
        Return the same parameters and moments, for eager steps.

        :param taken: number of steps taken in this update
        """

    @abstractmethod
    def store_parameters(self) -> None:
        """Write the parameters into the policy."""

    @abstractmethod
    def store(self, steps: int) -> None:
        """
        Write the parameters into the policy and the moments into the optimizer, in torch's format.

        :param steps: number of steps taken in this update
        """


class EagerParameters(HeldParameters):
    """Parameters that eager steps move."""

    def eager(self, taken: int) -> "EagerParameters":
        return self

    @abstractmethod
    def arranged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradients of the parameters in the pieces that :meth:`take` wants."""

    @abstractmethod
    def take(self, gradient: Sequence[Tensor], clip: float, number: int, scale: float) -> bool:
        """
        Take a step. :meth:`store_parameters` writes its result into the policy.

        :param gradient: as :meth:`arranged` returns it; it may be changed
        :param clip: factor of the gradient
        :param number: number of the step in this update, from 1
        :param scale: factor of the learning rate
        :return: whether it was taken
        """


class MovedParameters(HeldParameters):
    """
    Parameters that an optimizer's rule moves, and the moments that the optimizer keeps for them.

    A compiled step changes ``pieces`` (the parameters) and ``moments`` in place. ``moments`` holds the pieces of the rule's
    first moment, then those of the next. ``step`` counts the steps that were taken before this update.

    :param parameters: all of one dtype and device
    :param optimizer: the optimizer of these parameters
    :param rule: the rule that takes the optimizer's steps
    :param irrevocable: there is one step, which nobody can undo
    """

    pieces: Sequence[Tensor]
    moments: Sequence[Tensor]

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        rule: type[OptimizerRule],
        irrevocable: bool = False,
    ):
        self.parameters, self.optimizer, self.rule, self.irrevocable = parameters, optimizer, rule, irrevocable
        self._states = states_of(optimizer, parameters)
        (self.step,) = steps_taken(self._states[:1], rule)
        self._hold()

    @abstractmethod
    def _hold(self) -> None:
        """Set ``pieces`` and ``moments``."""

    def step_scalars(self, taken: int, n: int, remembered: Remembered) -> Sequence[Tensor]:
        """
        Return the rule's scalars for the next ``n`` steps, one vector per step.

        :param taken: number of steps taken in this update
        :param remembered: keeps the vector of a rule whose scalars never change
        """
        (group,) = self.optimizer.param_groups
        first, like = self.step + taken + 1, self.parameters[0]
        scalars = [(*map(float, self.rule.scalars(group, t)),) for t in range(first, first + n)]
        if len(set(scalars)) > 1:
            return like.new_tensor(scalars).unbind()
        return [remembered((scalars[0], like.dtype, like.device), lambda: like.new_tensor(scalars[0]))] * n

    def _create(self, moments: Mapping[str, Sequence[Tensor]], steps: int) -> None:
        """Create the optimizer's state of each parameter, which has none yet."""
        for i, p in enumerate(self.parameters):
            self.optimizer.state[p] = {**self.rule.new_count(steps), **{name: values[i] for name, values in moments.items()}}
        self._states = states_of(self.optimizer, self.parameters)

    def _count(self, steps: int) -> None:
        """Add ``steps`` to the step count in the optimizer's state of each parameter."""
        total = self.step + steps
        for state in self._states:
            count = state.get("step")
            if isinstance(count, Tensor):
                count.fill_(total)
            elif count is not None:
                state["step"] = total


class FlatParameters(MovedParameters, EagerParameters):
    """
    Copies of the parameters, ``[P]``, and of their moments, ``[P]`` each.

    They are copies, so code that replaces, moves, freezes or loads parameters between two updates need not know about them.
    """

    def _hold(self) -> None:
        self._data = [p.detach() for p in self.parameters]
        self.theta = flatten(self._data)
        self._views = unflatten(self.theta, self._data)
        self.pieces, self.moments = [self.theta], [self._gather(name) for name in self.rule.moments]

    def _gather(self, name: str) -> Tensor:
        if self.step == 0:
            return th.full_like(self.theta, self.rule.initial)
        return flatten([state[name] for state in self._states])

    def is_finite(self) -> bool:
        return all(map(all_finite, (self.theta, *self.moments)))

    def arranged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        return [flatten(gradients)]

    def take(self, gradient: Sequence[Tensor], clip: float, number: int, scale: float) -> bool:
        (vector,), (group,) = gradient, self.optimizer.param_groups
        moved = (self.theta, *self.moments)
        before = [x.clone() for x in moved] if self.irrevocable else []
        self.rule.move(self.theta, vector.mul_(clip), self.moments, {**group, "lr": scale * group["lr"]}, self.step + number)
        if self.irrevocable and not all(map(all_finite, moved)):
            copy_all(moved, before)
            return False
        return True

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


class ParametersInPlace(MovedParameters):
    """
    The parameters and moments themselves, for updates of one or a few steps, in which copies would cost as much as a step.

    Missing moments are created, and removed again if no step follows.
    """

    def _hold(self) -> None:
        names = self.rule.moments
        if self.step == 0 and names:
            data = [p.detach() for p in self.parameters]
            self._create({name: [th.full_like(x, self.rule.initial) for x in data] for name in names}, 0)
        self.pieces, self.moments = self.parameters, [state[name] for name in names for state in self._states]

    def is_finite(self) -> bool:
        with th.no_grad():
            return all_finite(flatten((*self.pieces, *self.moments)))  # a test of each takes three times as long

    def eager(self, taken: int) -> FlatParameters:
        self.store(taken)
        flat = FlatParameters(self.parameters, self.optimizer, self.rule, self.irrevocable)
        flat.step = self.step  # from which its steps are counted
        return flat

    def store_parameters(self) -> None:
        """Do nothing: the policy has the parameters."""

    def store(self, steps: int) -> None:
        if steps > 0:
            self._count(steps)
        elif self.step == 0:
            for p in self.parameters:
                self.optimizer.state.pop(p, None)


class SteppedByOptimizer(EagerParameters):
    """Parameters whose optimizer takes every step itself, on the policy, because there is no rule for it."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer):
        self.parameters, self.optimizer = parameters, optimizer

    def arranged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        return gradients

    def take(self, gradient: Sequence[Tensor], clip: float, number: int, scale: float) -> bool:
        self.optimizer.zero_grad(set_to_none=True)  # a callback may have left gradients behind
        for p, piece in zip(self.parameters, gradient, strict=True):
            p.grad = (clip * piece).to(p.dtype)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= scale
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        return True

    def store_parameters(self) -> None:
        """Do nothing: the policy has the parameters."""

    def is_finite(self) -> bool:
        return all(all_finite(p) for p in self.parameters) and bad_state(self.optimizer, self.parameters) is None

    def store(self, steps: int) -> None:
        """Do nothing: the optimizer has its moments."""


def states_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the optimizer's state of each parameter, empty for a parameter without a step."""
    return [optimizer.state.get(p, {}) for p in parameters]


def bad_state(optimizer: Optimizer, parameters: Iterable[Tensor]) -> tuple[Tensor, str] | None:
    """Return a parameter and the name of its first optimizer state that is not finite, or ``None``."""
    for p in parameters:
        for name, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor) and not all_finite(value):
                return p, name
    return None


def all_finite(x: Tensor) -> bool:
    """Return whether no number is NaN or infinite. The sum is a quick test; only its overflow needs the slow one."""
    return math.isfinite(x.detach().sum()) or bool(th.isfinite(x).all())


def steps_taken(states: Sequence[Mapping[str, Any]], rule: type[OptimizerRule]) -> list[int]:
    """Return the number of steps behind each parameter's state: 1 if the optimizer keeps moments but no count."""
    first = next(iter(rule.moments), None)
    begun = [first is None or state.get(first) is not None for state in states]
    return [int(state.get("step", first is not None)) if known else 0 for state, known in zip(states, begun, strict=True)]
