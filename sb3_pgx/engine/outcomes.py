"""What steps that run on the device tell the host, which asks once an epoch."""

from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_pgx.engine.compiler import Remembered

OPEN, DIVERGED, STOPPED = 1.0, 0.0, -1.0  # the gate: steps are taken; something was not finite; the policy moved too far
GATE, SEEN, TAKEN, SCALE = 0, 1, 2, 3  # places of the flags
N_FLAGS = 4


class News(NamedTuple):
    """Of the steps since a report was opened."""

    gate: float
    taken: int
    scale: float  # factor of the learning rate
    outcomes: list[list[float]]  # of the minibatches seen


class Report:
    """
    ``flags`` go on from step to step: gate, minibatches seen, steps taken, factor of the learning rate, ``[4]``. ``outcome``
    takes the metrics of the next step, ``[M]``.

    :param gate: as it is now
    :param scale: likewise
    :param n_steps: that may be told, at most
    :param n_metrics: M
    :param device: of the steps
    :param remembered: for the flags as they begin
    """

    def __init__(self, gate: float, scale: float, n_steps: int, n_metrics: int, device: th.device, remembered: Remembered):
        start = remembered((gate, scale, device), lambda: th.tensor([gate, 0, 0, scale], dtype=th.float64, device=device))
        # One tensor, so that one transfer from the device tells all.
        self._all = th.zeros(1 + n_steps, max(N_FLAGS, n_metrics), dtype=th.float64, device=device)
        self.flags: Tensor = self._all[0, :N_FLAGS].copy_(start)
        self._outcomes, self._n_metrics, self._told = self._all[1:, :n_metrics].unbind(), n_metrics, 0

    @property
    def outcome(self) -> Tensor:
        return self._outcomes[self._told]

    def told(self) -> None:
        """A step has written its outcome, or has found the gate closed."""
        self._told += 1

    def read(self) -> News:
        """Waits for the device."""
        (gate, seen, taken, scale, *_), *outcomes = self._all.tolist()
        return News(gate, int(taken), scale, [outcome[: self._n_metrics] for outcome in outcomes[: int(seen)]])
