"""What a gradient step does with the gradients of several processes."""

from collections.abc import Sequence

import torch as th
from torch import Tensor

from sb3_pgx.parallel.processes import Processes

_NOTHING = -1  # the number of a step that has no gradient


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

    def missed(self, n_metrics: int, like: Sequence[Tensor]) -> Tensor | None:
        """
        Return the vector of a step that the other processes have taken without this one; ``None`` if they have not.

        :param n_metrics: number of metrics
        :param like: tensors with the shapes of the gradient's pieces
        """
        return None

    def settle(self) -> None:
        """Wait at the end of an update for what is still on its way."""


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


class MeanOfTheFirst(MeanOverProcesses):
    """
    Averages the gradients that arrive first, as distributed PPO does (Heess et al., 2017, supplement): a step proceeds when
    W − D of the W processes have delivered theirs, and drops the others. The first process averages, and is never late.

    All processes take all steps. One that was late leaves out the gradients of the steps that have been taken meanwhile. Which
    gradients are late depends on time, so two runs differ.

    :param processes: of the run, W
    :param max_dropped: D, at least 1 and below W
    """

    def __init__(self, processes: Processes, max_dropped: int):
        super().__init__(processes)
        self._needed, self._store = processes.size - max_dropped, processes.shared_store()
        self.dropped = 0  # gradients that the first process has dropped
        self._begin()

    def _begin(self) -> None:
        """Begin to count."""
        self._step, self._received = 0, [0] * self._processes.size  # steps taken; gradients received by rank, also late ones
        self._n_left = self._processes.n_left

    def missed(self, n_metrics: int, like: Sequence[Tensor]) -> Tensor | None:
        if self._n_left != self._processes.n_left:  # an error has ended an update somewhere in the middle
            self._begin()
        if self._processes.is_first:
            return None
        with self._processes.losses(0):
            taken = self._store.add(self._taken, 0)
        if taken <= self._step:
            return None
        numbers = th.zeros(sum(x.numel() for x in like) + n_metrics, dtype=like[0].dtype)
        self._post(numbers, _NOTHING)  # the first process counts the messages
        return self._mean_of_first(numbers).to(like[0].device)

    def flat(self, numbers: Tensor) -> Tensor:
        own = numbers.cpu()  # NCCL cannot receive from whichever process is first
        if self._processes.is_first:
            return self._averaged(own).to(numbers.device)
        self._post(own, self._step)
        return self._mean_of_first(own).to(numbers.device)

    def settle(self) -> None:
        if self._processes.is_first:
            for peer in range(1, self._processes.size):
                while self._received[peer] < self._step:
                    self._next_gradient(peer)
        self._processes.finish()

    def _post(self, numbers: Tensor, step: int) -> None:
        self._processes.post(0, th.cat([numbers.new_tensor([step]), numbers]))

    def _mean_of_first(self, into: Tensor) -> Tensor:
        self._step += 1
        self._processes.receive_tensor(into, 0)
        return into

    def _averaged(self, numbers: Tensor) -> Tensor:
        self._message = numbers.new_empty(len(numbers) + 1)
        n = 1
        while n < self._needed:
            step, gradient = self._next_gradient()
            if step == self._step:
                numbers, n = numbers + gradient, n + 1
        mean = numbers / n
        self.dropped += self._processes.size - n
        for peer in range(1, self._processes.size):
            self._processes.post(peer, mean)
        self._step += 1
        self._store.add(self._taken, 1)
        return mean

    @property
    def _taken(self) -> str:
        """Key in the store of the number of steps taken."""
        return f"steps taken {self._n_left}"

    def _next_gradient(self, peer: int | None = None) -> tuple[int, Tensor]:
        """Receive a gradient. Return the number of its step, and the gradient. ``None``: from whichever process is first."""
        self._received[self._processes.receive_tensor(self._message, peer)] += 1
        return int(self._message[0]), self._message[1:]


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
