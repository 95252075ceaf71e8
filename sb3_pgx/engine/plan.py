"""The plan of one update: numbers that may change without recompiling, and the structure built into a compiled step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor

from sb3_pgx.core.checks import is_number

Adapt = Callable[..., Tensor]


@dataclass(frozen=True)
class Plan:
    """
    ``coefficients`` is a named tuple for the objective: its numbers reach a compiled step as tensors, and all else in it
    (``None``, booleans) is part of the graph. Minibatches of ``rows`` rows are worth a graph, others run eagerly. ``adapt``
    and ``adapt_numbers`` are those of a controller of the learning rate, see
    :func:`~sb3_pgx.engine.step.gradient_step`. ``one_by_one`` says that each step counts as an update. There are few of
    them at a time, so that a compiled step moves the parameters in place instead of in a flat copy.
    """

    coefficients: Any
    max_grad_norm: float | None
    rows: int
    max_distance: float | None = None
    adapt: Adapt | None = None
    adapt_numbers: tuple[float, ...] = ()
    one_by_one: bool = False

    @property
    def limits(self) -> tuple[float, ...]:
        """The largest gradient norm and distance, infinite if unlimited, followed by the controller's numbers."""
        return (*(math.inf if x is None else float(x) for x in (self.max_grad_norm, self.max_distance)), *self.adapt_numbers)

    @property
    def numbers(self) -> list[float]:
        """The numbers that a compiled step gets as one tensor."""
        return [*self.limits, *(float(c) for c in self.coefficients if is_number(c))]

    @property
    def structure(self) -> tuple[Any, ...]:
        """Everything that is built into a compiled step; a change of it means recompiling."""
        return (len(self.limits), self.adapt, *("number" if is_number(c) else c for c in self.coefficients))

    def as_tensors(self) -> Any:
        """Return the coefficients as an objective gets them in a compiled step."""
        return self.unpack(th.tensor(self.numbers, dtype=th.float64).unbind())[1]

    def unpack(self, numbers: Sequence[Tensor]) -> tuple[Sequence[Tensor], Any]:
        """Return limits and coefficients from the tensors of :attr:`numbers`."""
        n = len(self.limits)
        rest = iter(numbers[n:])
        return numbers[:n], type(self.coefficients)(*(next(rest) if is_number(c) else c for c in self.coefficients))
