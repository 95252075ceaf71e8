"""What a gradient step does with the gradients of several processes."""

from collections.abc import Sequence

import torch as th
from torch import Tensor

from sb3_pgx.parallel.processes import Processes


class Reduction:
    """What becomes of the loss's gradient before it is clipped. Here nothing: there is one process."""

    splits = False  # whether a compiled step is cut in two, because something happens between gradient and optimizer

    def __call__(self, metrics: Sequence[Tensor], gradient: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """
        Return metrics and gradient of all processes.

        :param metrics: of this process's minibatch, without dimensions
        :param gradient: of its loss, in pieces
        """
        return metrics, gradient

    def flat(self, numbers: Tensor) -> Tensor:
        """Return what becomes of metrics and gradient in one vector, in place."""
        return numbers


class MeanOverProcesses(Reduction):
    """
    Averages metrics and gradients over processes with minibatches of one size, in one message.

    :param processes: of the run
    """

    splits = True

    def __init__(self, processes: Processes):
        self._processes = processes

    def __call__(self, metrics: Sequence[Tensor], gradient: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return unpacked(self.flat(packed(metrics, gradient)), len(metrics), gradient)

    def flat(self, numbers: Tensor) -> Tensor:
        return self._processes.mean(numbers)


def packed(metrics: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """Return metrics and gradient in one vector."""
    parts = [*gradient, *metrics]
    return th.cat([x.detach().flatten().to(gradient[0].dtype) for x in parts])


def unpacked(numbers: Tensor, n_metrics: int, like: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """
    Return metrics and gradient from the vector of :func:`packed`.

    :param numbers: the vector
    :param n_metrics: number of metrics
    :param like: tensors with the shapes of the gradient's pieces
    """
    *pieces, metrics = numbers.split([*(x.numel() for x in like), n_metrics])
    return metrics.unbind(), [piece.view(x.shape) for piece, x in zip(pieces, like, strict=True)]
