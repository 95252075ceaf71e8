"""
The gradient step: clip the gradient, and take the optimizer's step behind a gate.

The gate closes when the policy has moved too far or something is not finite; from then on nothing changes. There is one step,
:func:`gradient_step`, and its numbers can be in two places. On the host (:class:`OnHost`) they are read at once, and a step is
left out if the gate does not let it through. On the device (:class:`OnDevice`) they are tensors: every step is computed,
the gate decides whether it counts, and the host reads the results once per epoch. A compiled graph is a trace of the latter.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_pgx.engine.optimizers import OptimizerRule
from sb3_pgx.engine.parameters import EagerParameters
from sb3_pgx.engine.plan import Adapt
from sb3_pgx.engine.step_log import DIVERGED, GATE, OPEN, SCALE, SEEN, STOPPED, TAKEN, Progress


class Place(ABC):
    """
    Where the numbers of a step are: floats and booleans on the host, or tensors without dimensions on the device.

    ``scale`` is the factor of the learning rate before the step.
    """

    scale: Any

    @abstractmethod
    def numbers(self, values: Sequence[Tensor]) -> Sequence[Any]:
        """Return the values as numbers of this place."""

    @abstractmethod
    def at_most_one(self, number: Any) -> Any:
        """Return min(number, 1)."""

    @abstractmethod
    def adapted(self, adapt: Adapt, distance: Any, constants: Sequence[Any]) -> Any:
        """Return the factor of the learning rate that a controller gives for this step."""

    @abstractmethod
    def verdict(self, loss: Any, norm: Any, distance: Any, max_distance: Any) -> Any:
        """
        Return what a step's numbers make of an open gate: ``OPEN``, ``STOPPED`` or ``DIVERGED``.

        :param norm: of the gradient
        :param distance: how far the policy has moved, or ``None``
        """

    @abstractmethod
    def move(self, parameters: Any, gradient: Sequence[Tensor], clip: Any, scale: Any, verdict: Any) -> Any:
        """Move the parameters if the gate is open. Return the gate after it: their new values may not be finite."""

    @abstractmethod
    def record(self, metrics: Sequence[Any], norm: Any, clipped: Any, scale: Any, verdict: Any) -> Any:
        """Log the step, and return whether it was taken."""


def gradient_step(
    place: Place,
    parameters: Any,
    metrics: Sequence[Tensor],
    gradient: Sequence[Tensor],
    limits: Sequence[Any],
    distance: int | None = None,
    adapt: Adapt | None = None,
) -> Any:
    """
    Take one gradient step if the gate is open and stays so.

    :param place: where the step's numbers are
    :param parameters: those that move, as the place wants them: :class:`~sb3_pgx.engine.parameters.EagerParameters` on the
        host, :class:`GatedParameters` on the device
    :param metrics: of the objective, without dimensions, the loss first
    :param gradient: of the loss, in pieces like those of the parameters
    :param limits: norm to clip to, distance beyond which no step is taken (infinite for none), and the controller's constants
    :param distance: which of the metrics says how far the policy has moved from the one that acted
    :param adapt: a controller of the learning rate's factor: from the factor, the distance and its own constants to the factor
        of this step and the next
    :return: whether the step was taken
    """
    max_grad_norm, max_distance, *constants = limits
    *metrics, norm = place.numbers([*metrics, total_norm(gradient)])
    far = None if distance is None else metrics[distance]
    clip = place.at_most_one(max_grad_norm / (norm + 1e-6))
    scale = place.scale if adapt is None else place.adapted(adapt, far, constants)
    verdict = place.verdict(metrics[0], norm, far, max_distance)
    verdict = place.move(parameters, gradient, clip, scale, verdict)
    return place.record(metrics, norm, norm > max_grad_norm, scale, verdict)


class OnHost(Place):
    """
    Steps whose numbers the host reads at once. On the CPU, an eager training with :class:`OnDevice` takes 7 to 15 % longer.

    :param progress: of the update so far
    """

    def __init__(self, progress: Progress):
        self.gate, self.taken, self.scale, outcomes = progress
        self.outcomes = [*outcomes]

    @property
    def progress(self) -> Progress:
        """How far the update has come."""
        return Progress(self.gate, self.taken, self.scale, self.outcomes)

    def numbers(self, values: Sequence[Tensor]) -> Sequence[float]:
        return th.stack([*values]).tolist()

    def at_most_one(self, number: float) -> float:
        return min(1.0, number)

    def adapted(self, adapt: Adapt, distance: float, constants: Sequence[float]) -> float:
        scale, far = th.tensor([self.scale, distance], dtype=th.float64)
        return adapt(scale, far, *constants).item()

    def verdict(self, loss: float, norm: float, distance: float | None, max_distance: float) -> float:
        if distance is not None and distance > max_distance:
            return STOPPED
        return OPEN if math.isfinite(loss) and math.isfinite(norm) else DIVERGED

    def move(
        self, parameters: EagerParameters, gradient: Sequence[Tensor], clip: float, scale: float, verdict: float
    ) -> float:
        if verdict != OPEN:
            return verdict
        return OPEN if parameters.take(gradient, clip, self.taken + 1, scale) else DIVERGED

    def record(self, metrics: Sequence[float], norm: float, clipped: bool, scale: float, verdict: float) -> bool:
        go, self.gate = verdict == OPEN, verdict
        self.outcomes.append([*metrics, norm, float(clipped)] if go else [*metrics, 0.0, 0.0])
        if go:
            self.taken, self.scale = self.taken + 1, scale
        return go


@dataclass(frozen=True)
class GatedParameters:
    """
    Parameters and moments that change in place, or not, as a gate on the device says.

    The parameters come in pieces, or as one flat vector, which is one piece.

    :param rule: the optimizer's
    :param theta: pieces of any shape
    :param moments: for each moment of the rule, a piece for every piece of ``theta``
    :param scalars: the rule's, for this step
    :param irrevocable: nobody can undo the step: it is not taken if its result would not be finite
    """

    rule: type[OptimizerRule]
    theta: Sequence[Tensor]
    moments: Sequence[Sequence[Tensor]]
    scalars: Sequence[Tensor]
    irrevocable: bool = False

    def before(self) -> list[Tensor]:
        """Return each piece of the parameters, followed by its moments."""
        return [x for pieces in zip(self.theta, *self.moments, strict=True) for x in pieces]

    def after(self, gradient: Sequence[Tensor], clip: Tensor, scale: Tensor | None) -> list[Tensor]:
        """Return what a step makes of them, in the order of :meth:`before`."""
        after: list[Tensor] = []
        for x, g, *kept in zip(self.theta, gradient, *self.moments, strict=True):
            new, moments = self.rule.step(x, g * clip.to(g.dtype), kept, self.scalars)
            if scale is not None:
                new = x + scale.to(x.dtype) * (new - x)  # every rule's step is linear in its learning rate
            after += [new, *moments]
        return after


class OnDevice(Place):
    """
    Steps whose numbers stay on the device.

    :param flags: of a :class:`~sb3_pgx.engine.step_log.StepLog`
    :param outcome: takes the M metrics of this step, ``[M]``, if the gate was open; the last two are the norm of the gradient
        and whether it was clipped, 0 where no step was taken
    """

    def __init__(self, flags: Tensor, outcome: Tensor):
        self.flags, self.outcome = flags, outcome
        self.scale, self._was_open = flags[SCALE], flags[GATE] == OPEN
        self.reached: Sequence[Tensor] = ()  # the parameters after the step

    def numbers(self, values: Sequence[Tensor]) -> Sequence[Tensor]:
        return values

    def at_most_one(self, number: Tensor) -> Tensor:
        return number.clamp(max=1.0)

    def adapted(self, adapt: Adapt, distance: Tensor, constants: Sequence[Tensor]) -> Tensor:
        return adapt(self.scale, distance, *constants)

    def verdict(self, loss: Tensor, norm: Tensor, distance: Tensor | None, max_distance: Tensor | float) -> Tensor:
        verdict = th.where(th.isfinite(norm) & th.isfinite(loss), OPEN, DIVERGED)
        return verdict if distance is None else th.where(distance > max_distance, STOPPED, verdict)

    def move(
        self, parameters: GatedParameters, gradient: Sequence[Tensor], clip: Tensor, scale: Tensor, verdict: Tensor
    ) -> Tensor:
        before = parameters.before()
        after = parameters.after(gradient, clip, None if scale is self.scale else scale)
        if parameters.irrevocable:
            finite = sum(map(zero_if_finite, after)) == 0
            verdict = th.where(finite | (verdict == STOPPED), verdict, DIVERGED)
        verdict = th.where(self._was_open, verdict.to(self.flags.dtype), self.flags[GATE])
        gated = [th.where(verdict == OPEN, new, old) for old, new in zip(before, after, strict=True)]
        for old, new in zip(before, gated, strict=True):
            old.copy_(new)
        self.reached = gated[:: 1 + len(parameters.moments)]
        return verdict

    def record(self, metrics: Sequence[Tensor], norm: Tensor, clipped: Tensor, scale: Tensor, verdict: Tensor) -> Tensor:
        go = verdict == OPEN
        values = th.stack([*metrics, th.where(go, norm, 0.0), (go & clipped).to(norm.dtype)])
        self.outcome.copy_(th.where(self._was_open, values.to(self.outcome.dtype), self.outcome))
        seen, taken = self.flags[SEEN] + self._was_open, self.flags[TAKEN] + go
        self.flags.copy_(th.stack([verdict, seen, taken, th.where(go, scale, self.scale)]))
        return go


def zero_if_finite(x: Tensor) -> Tensor:
    """Return 0 if all numbers are finite, else NaN. A sum of the numbers themselves might overflow."""
    return (0 * x).sum()


def total_norm(pieces: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all pieces together."""
    norms = [th.linalg.vector_norm(x) for x in pieces]
    return norms[0] if len(norms) == 1 else th.linalg.vector_norm(th.stack(norms))


def gradients_of_loss(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return ∇loss for each parameter; zeros for parameters that do not enter the loss."""
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    return [th.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def used(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that enter the loss. An optimizer leaves the others alone, moments included."""
    gradients = th.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
