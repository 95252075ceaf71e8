"""Normal random numbers as arguments: note which ones a function draws, and give it numbers that were drawn before."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch as th
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Draw(NamedTuple):
    """Normal random numbers that a function draws: their shape, type and device, mean and standard deviation."""

    shape: th.Size
    dtype: th.dtype
    device: th.device
    mean: float
    std: float

    def __call__(self) -> Tensor:
        """Draw numbers, in the way in which torch's distributions do, so that the generator gives the same ones."""
        return th.empty(self.shape, dtype=self.dtype, device=self.device).normal_(self.mean, self.std)


class NotedDraws(TorchFunctionMode):
    """A context in which ``draws`` lists the normal random numbers that are drawn, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.normal_:
            self.draws.append(_draw(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


class GivenDraws(TorchFunctionMode):
    """
    A context in which tensors take the place of the normal random numbers that are drawn.

    :param numbers: one tensor per draw, in the order of the draws
    """

    def __init__(self, numbers: Sequence[Tensor]):
        super().__init__()
        self._numbers: Iterator[Tensor] = iter(numbers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.normal_:
            return next(self._numbers)
        return func(*args, **(kwargs or {}))


def _draw(x: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Draw:
    return Draw(x.shape, x.dtype, x.device, mean, std)
