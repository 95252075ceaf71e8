"""A log of gradient steps that is kept on the device and read by the host once per epoch."""

from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_pgx.engine.compiler import Remembered

# The gate: steps are taken; something was not finite; the policy moved too far.
OPEN, DIVERGED, STOPPED = 1.0, 0.0, -1.0
GATE, SEEN, TAKEN, SCALE = 0, 1, 2, 3  # places of the flags
N_FLAGS = 4


class LoggedSteps(NamedTuple):
    """What the steps of one log have done."""

    gate: float
    taken: int
    scale: float  # factor of the learning rate
    outcomes: list[list[float]]  # metrics of each minibatch seen


class StepLog:
    """
    The metrics of gradient steps, and flags that each step updates.

    ``flags`` holds the gate, the number of minibatches seen, the number of steps taken and the factor of the learning rate,
    ``[4]``. ``outcome`` is where the next step writes its metrics, ``[M]``.

    :param gate: the gate before the first step
    :param scale: the factor of the learning rate before the first step
    :param n_steps: the largest number of steps that are logged
    :param n_metrics: M
    :param device: the device that the steps run on
    :param remembered: keeps the initial flags from one log to the next
    """

    def __init__(self, gate: float, scale: float, n_steps: int, n_metrics: int, device: th.device, remembered: Remembered):
        start = remembered((gate, scale, device), lambda: th.tensor([gate, 0, 0, scale], dtype=th.float64, device=device))
        # One tensor, so that reading the log is one transfer from the device.
        self._all = th.zeros(1 + n_steps, max(N_FLAGS, n_metrics), dtype=th.float64, device=device)
        self.flags: Tensor = self._all[0, :N_FLAGS].copy_(start)
        self._outcomes, self._n_metrics, self._n_logged = self._all[1:, :n_metrics].unbind(), n_metrics, 0

    @property
    def outcome(self) -> Tensor:
        """Where the next step writes its metrics, ``[M]``."""
        return self._outcomes[self._n_logged]

    def advance(self) -> None:
        """Go on to the next step: this one has written its outcome or found the gate closed."""
        self._n_logged += 1

    def read(self) -> LoggedSteps:
        """Return what has been logged, after waiting for the device."""
        (gate, seen, taken, scale, *_), *outcomes = self._all.tolist()
        return LoggedSteps(gate, int(taken), scale, [outcome[: self._n_metrics] for outcome in outcomes[: int(seen)]])
