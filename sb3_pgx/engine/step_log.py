"""What the gradient steps of an update have done, and a log of it on the device that the host reads once per epoch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_pgx.engine.compiler import Remembered

# The gate: steps are taken; something was not finite; the policy moved too far.
OPEN, DIVERGED, STOPPED = 1.0, 0.0, -1.0
GATE, SEEN, TAKEN, SCALE = 0, 1, 2, 3  # places of the flags
N_FLAGS = 4


class Progress(NamedTuple):
    """How far an update has come."""

    gate: float = OPEN
    taken: int = 0  # number of steps
    scale: float = 1.0  # factor of the learning rate
    outcomes: Sequence[list[float]] = ()  # of each minibatch seen: the metrics, the gradient's norm and whether it was clipped


class StepLog:
    """
    A log of gradient steps on the device.

    ``flags`` holds the gate, the number of minibatches seen, the number of steps taken and the factor of the learning rate,
    ``[4]``; each step updates them. ``outcome`` is where the next step writes its metrics, ``[M]``.

    :param progress: before the first of these steps
    :param n_steps: the largest number of steps that are logged
    :param n_metrics: M
    :param device: the device that the steps run on
    :param remembered: keeps the empty log from one log to the next
    """

    def __init__(self, progress: Progress, n_steps: int, n_metrics: int, device: th.device, remembered: Remembered):
        start, width = [progress.gate, 0.0, 0.0, progress.scale], max(N_FLAGS, n_metrics)

        def empty() -> Tensor:
            rows = [start + [0.0] * (width - N_FLAGS), *[[0.0] * width] * n_steps]
            return th.tensor(rows, dtype=th.float64, device=device)

        # One tensor, so that reading the log is one transfer from the device.
        self._all: Tensor = remembered((start, n_steps, width, device), empty).clone()
        self.flags = self._all[0, :N_FLAGS]
        self._outcomes, self._n_metrics, self._n_logged = self._all[1:, :n_metrics].unbind(), n_metrics, 0
        self._before = progress

    @property
    def outcome(self) -> Tensor:
        """Where the next step writes its metrics, ``[M]``."""
        return self._outcomes[self._n_logged]

    def advance(self) -> None:
        """Go on to the next step: this one has written its outcome or found the gate closed."""
        self._n_logged += 1

    @property
    def progress(self) -> Progress:
        """The update's progress after these steps; the host waits for the device."""
        (gate, seen, taken, scale, *_), *outcomes = self._all.tolist()
        logged = [outcome[: self._n_metrics] for outcome in outcomes[: int(seen)]]
        return Progress(gate, self._before.taken + int(taken), scale, [*self._before.outcomes, *logged])
