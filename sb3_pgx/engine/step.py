"""
One gradient step as a pure function of tensors: loss, gradient, clipping and optimizer, behind a gate.

The gate is a number on the device. It closes when the policy has moved too far or something is not finite; from then on
nothing changes. The host reads it once per epoch instead of once per step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.distributions import packed
from sb3_pgx.core.policies import unchecked
from sb3_pgx.core.rollout import Batch, Observations, as_policy_input
from sb3_pgx.engine.follower import FollowerRule
from sb3_pgx.engine.optimizers import OptimizerRule
from sb3_pgx.engine.outcomes import DIVERGED, GATE, OPEN, SCALE, SEEN, STOPPED, TAKEN


class Evaluation(NamedTuple):
    """The current policy's evaluation of a batch."""

    values: Tensor  # [B]
    log_prob: Tensor  # [B]
    entropy: Tensor  # [B]; −log π where there is no closed form, as SB3
    distribution: Tensor | None  # [B, K], parameters of the action distribution


def evaluated(policy: ActorCriticPolicy, batch: Batch) -> Evaluation:
    """Evaluate a batch; return the distribution, too, if the batch has that of the behaviour policy."""
    return evaluated_actions(policy, batch.observations, batch.actions, batch.distribution is not None)


def evaluated_actions(
    policy: ActorCriticPolicy, observations: Observations, actions: Tensor, with_distribution: bool
) -> Evaluation:
    """
    Evaluate actions by the policy's own ``evaluate_actions``.

    :param policy: in evaluation or training mode, as wanted
    :param observations: ``[B, *obs]``
    :param actions: as a rollout stores them, ``[B, action_dim]``
    :param with_distribution: whether to return the parameters of the action distribution
    """
    with unchecked(policy):
        values, log_prob, entropy = policy.evaluate_actions(observations, as_policy_input(actions, policy.action_space))
        distribution = packed(policy.action_dist) if with_distribution else None
    return Evaluation(values.flatten(), log_prob, -log_prob if entropy is None else entropy, distribution)


def evaluated_values(policy: ActorCriticPolicy, batch: Batch) -> Tensor:
    """Return V of the batch's observations, without evaluating actions, ``[B]``."""
    return policy.predict_values(batch.observations).flatten()


@dataclass(frozen=True)
class Objective:
    """
    A loss and its metrics, on which gradient steps descend.

    :param measure: pure function of what ``evaluate`` gave, the batch and the coefficients: the scalar ``"loss"`` and whatever
        else is to be measured, scalars, too
    :param evaluate: of the policy and the batch: what the policy says of it now; of the follower, too, if there is one
    :param distance: name of the metric that says how far the policy has moved from the one that acted
    :param reads_distribution: whether ``measure`` needs the parameters of the action distribution, now and when it acted
    :param critic_only: parameters that the action distribution depends on stay as they are
    :param follows: how a second policy follows the one that is trained, after each step
    """

    measure: Callable[[Any, Any, Any], dict[str, Tensor]]
    evaluate: Callable[..., Any] = evaluated
    distance: str | None = None
    reads_distribution: bool = False
    critic_only: bool = False
    follows: FollowerRule | None = None


@dataclass(frozen=True)
class BoundObjective:
    """
    An objective, the policies that follow the trained one, and the names of the metrics.

    :param objective: the loss and its metrics
    :param followers: no policy or one, which the objective reads
    :param names: of the metrics, ``"loss"`` first
    """

    objective: Objective
    followers: Sequence[ActorCriticPolicy]
    names: Sequence[str]

    def measure(self, policy: ActorCriticPolicy, batch: Any, coefficients: Any) -> dict[str, Tensor]:
        """
        Return the metrics at the policy's parameters, among them ``"loss"``.

        :param policy: in training mode
        :param batch: rows of a rollout
        :param coefficients: of the objective, as numbers or as tensors
        """
        now = self.objective.evaluate(policy, batch, *self.followers)
        return self.objective.measure(now, batch, coefficients)

    def distance(self, measured: dict[str, Tensor]) -> Tensor | None:
        """Return how far the policy has moved from the one that acted, or ``None`` if the objective does not measure it."""
        return None if self.objective.distance is None else measured[self.objective.distance]


MAX_GRAD_NORM, MAX_DISTANCE, N_LIMITS = 0, 1, 2  # places in the limits; a controller's numbers follow


def gated_step(
    rule: type[OptimizerRule],
    flags: Tensor,
    outcome: Tensor,
    theta: Sequence[Tensor],
    moments: Sequence[Sequence[Tensor]],
    gradient: Sequence[Tensor],
    measured: Sequence[Tensor],
    distance: Tensor | None,
    limits: Sequence[Tensor | float],
    scalars: Sequence[Tensor],
    adapt: Callable[..., Tensor] | None = None,
    irrevocable: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """
    Clip the gradient and take the optimizer's step, in place, if the gate is open and stays so.

    The parameters come in pieces, or as one flat vector, which is one piece.

    :param rule: the optimizer's
    :param flags: of a :class:`~sb3_pgx.engine.outcomes.StepLog`
    :param outcome: takes the M metrics of this step, ``[M]``, if the gate was open; the last two are the norm of the gradient
        and whether it was clipped, 0 where no step was taken
    :param theta: pieces of any shape
    :param moments: for each moment of the rule, a piece for every piece of ``theta``
    :param gradient: of the loss, likewise
    :param measured: the M − 2 other metrics, the loss first, without dimensions
    :param distance: how far the policy has moved from the one that acted, or ``None``
    :param limits: norm to clip to, distance beyond which no step is taken; infinite for none
    :param scalars: the rule's
    :param adapt: a controller of the learning rate's factor: from the factor, the distance and its own numbers, which end
        ``limits``, to the factor of this step and the next
    :param irrevocable: nobody can undo the step: it is not taken if its result would not be finite
    :return: whether the step was taken, and the new pieces of ``theta``
    """
    max_grad_norm, max_distance = limits[:N_LIMITS]
    norm = total_norm(gradient)
    clip = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    scale = flags[SCALE] if adapt is None else adapt(flags[SCALE], distance, *limits[N_LIMITS:])
    before, after = [], []
    for x, g, *kept in zip(theta, gradient, *moments, strict=True):
        new, new_kept = rule.step(x, g * clip.to(g.dtype), kept, scalars)
        if adapt is not None:
            new = x + scale.to(x.dtype) * (new - x)  # every rule's step is linear in its learning rate
        before += [x, *kept]
        after += [new, *new_kept]

    finite = th.isfinite(norm) & th.isfinite(measured[0])
    if irrevocable:
        finite &= sum(map(zero_if_finite, after)) == 0
    gate = flags[GATE]
    seen = gate == OPEN
    if distance is None:
        verdict = th.where(finite, OPEN, DIVERGED)
    else:
        verdict = th.where(distance > max_distance, STOPPED, th.where(finite, OPEN, DIVERGED))
    verdict = th.where(seen, verdict.to(flags.dtype), gate)
    go = verdict == OPEN

    gated = [th.where(go, new, old) for old, new in zip(before, after, strict=True)]
    for old, y in zip(before, gated, strict=True):
        old.copy_(y)
    scale = th.where(go, scale, flags[SCALE])

    values = th.stack([*measured, th.where(go, norm, 0.0), (go & (norm > max_grad_norm)).to(norm.dtype)])
    outcome.copy_(th.where(seen, values.to(outcome.dtype), outcome))
    flags.copy_(th.stack([verdict, flags[SEEN] + seen, flags[TAKEN] + go, scale]))
    return go, gated[:: 1 + len(moments)]


def zero_if_finite(x: Tensor) -> Tensor:
    """Return 0 if all numbers are finite, else NaN. A sum of the numbers themselves might overflow."""
    return (0 * x).sum()


def total_norm(pieces: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all pieces together."""
    norms = [th.linalg.vector_norm(x) for x in pieces]
    return norms[0] if len(norms) == 1 else th.linalg.vector_norm(th.stack(norms))


def verdict(values: Sequence[float], distance: float | None, limits: Sequence[float]) -> float:
    """
    Return the gate after a step that it let through, from numbers on the host.

    :param values: metrics, the loss first, the norm of the gradient last
    :param distance: how far the policy has moved, or ``None``
    :param limits: as in :func:`gated_step`
    """
    if distance is not None and distance > limits[MAX_DISTANCE]:
        return STOPPED
    return OPEN if math.isfinite(values[0]) and math.isfinite(values[-1]) else DIVERGED


def gradients_of_loss(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return ∇loss for each parameter; zeros for parameters that do not enter the loss."""
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    return [th.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def used(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that enter the loss. An optimizer leaves the others alone, moments included."""
    gradients = th.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
