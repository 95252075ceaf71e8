"""A policy's parameters and its optimizer's moments as flat vectors, for the time of one update."""

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.optim import Optimizer

from sb3_pgx.common.update.rules import Rule, Untouched


class Flat:
    """
    Copies of the parameters that an update moves, ``[P]``, and of their moments, ``[P]`` each.

    Copies, not views: whatever replaces, moves, freezes or loads parameters between two updates need not know of them.

    :param parameters: all of one dtype and device
    :param optimizer: theirs
    :param rule: what the optimizer does
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, rule: type[Rule]):
        self.parameters, self.optimizer, self.rule = list(parameters), optimizer, rule
        self._data = [p.detach() for p in parameters]
        self.theta = _flatten_dense_tensors(self._data)
        states = [optimizer.state[p] if p in optimizer.state else {} for p in self.parameters]
        self.step = steps_taken(states[0], rule)
        self.moments: Sequence[Tensor] = [self._gather(states, name) for name in rule.moments]

    def _gather(self, states: Sequence[Any], name: str) -> Tensor:
        if self.step == 0:
            return th.full_like(self.theta, self.rule.initial)
        return _flatten_dense_tensors([state[name] for state in states])

    def rows(self, taken: int, n: int) -> Sequence[Tensor]:
        """
        The rule's scalars for the next ``n`` steps, one vector a step.

        :param taken: steps since this was made
        """
        (group,) = self.optimizer.param_groups
        first = self.step + taken + 1
        return self.theta.new_tensor([self.rule.scalars(group, t) for t in range(first, first + n)]).unbind()

    def take(self, gradient: Tensor, number: int, scale: float) -> None:
        """
        A step, and the policy gets its result.

        :param gradient: clipped, ``[P]``
        :param number: of the step since this was made, from 1
        :param scale: factor of the learning rate
        """
        (group,) = self.optimizer.param_groups
        theta, self.moments = self.rule.step(self.theta, gradient, self.moments, self.rule.scalars(group, self.step + number))
        self.theta = theta if scale == 1.0 else th.lerp(self.theta, theta, scale)
        self.store_parameters()

    def store_parameters(self) -> None:
        """Write the parameters back."""
        th._foreach_copy_(self._data, _unflatten_dense_tensors(self.theta, self._data))

    def store(self, steps: int) -> None:
        """
        Write parameters and moments back, in the format of torch's optimizer.

        :param steps: how many were taken since this was made
        """
        self.store_parameters()
        if steps == 0:
            return
        total = self.step + steps
        pieces = {
            name: _unflatten_dense_tensors(moment, self._data)
            for name, moment in zip(self.rule.moments, self.moments, strict=True)
        }
        if not pieces:
            return
        if self.step == 0:
            for i, p in enumerate(self.parameters):
                state = {name: values[i].clone() for name, values in pieces.items()}
                self.optimizer.state[p] = {**self.rule.new_count(total), **state}
            return
        states = [self.optimizer.state[p] for p in self.parameters]
        for name, values in pieces.items():
            th._foreach_copy_([state[name] for state in states], values)
        for state in states:
            if isinstance(state.get("step"), Tensor):
                state["step"].fill_(total)
            elif "step" in state:
                state["step"] = total


class ByOptimizer(Flat):
    """For an optimizer without a rule: it takes the step itself, and the host waits for every one."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer):
        super().__init__(parameters, optimizer, Untouched)

    def take(self, gradient: Tensor, number: int, scale: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # a callback may have left gradients behind
        for p, piece in zip(self.parameters, _unflatten_dense_tensors(gradient, self._data), strict=True):
            p.grad = piece
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= scale
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)

    def store(self, steps: int) -> None:
        """The optimizer has."""


def steps_taken(state: Any, rule: type[Rule]) -> int:
    """How many steps an optimizer's state of one parameter stands for; one where it keeps no count but moments."""
    for name in rule.moments:
        if state.get(name) is None:
            return 0
    return int(state.get("step", bool(rule.moments)))
