"""Random numbers as arguments: note which ones a function draws, and give it numbers that were drawn before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWING = (Tensor.normal_, Tensor.exponential_)  # the methods whose numbers can be arguments


class Draw(NamedTuple):
    """Random numbers that a function draws: their shape, type and device, and the method that draws them, with arguments."""

    shape: th.Size
    dtype: th.dtype
    device: th.device
    method: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Tensor:
        """Draw numbers, in the way in which torch's distributions do, so that the generator gives the same ones."""
        return self.method(th.empty(self.shape, dtype=self.dtype, device=self.device), *self.args, **self.kwargs)


class NotedDraws(TorchFunctionMode):
    """A context in which ``draws`` lists the random numbers that are drawn by a method of ``DRAWING``, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DRAWING:
            x, *rest = args
            self.draws.append(Draw(x.shape, x.dtype, x.device, func, rest, kwargs or {}))
        return func(*args, **(kwargs or {}))


class GivenDraws(TorchFunctionMode):
    """
    A context in which tensors take the place of the random numbers that are drawn.

    :param numbers: one tensor per draw, in the order of the draws
    """

    def __init__(self, numbers: Sequence[Tensor]):
        super().__init__()
        self._numbers: Iterator[Tensor] = iter(numbers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DRAWING:
            return next(self._numbers)
        return func(*args, **(kwargs or {}))
