"""What ACER descends on (Wang et al., 2017): section 3 for Discrete, section 5 for Box."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_pgx.algorithms.acer.policies import ACERMixin
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.core.distributions import packed
from sb3_pgx.core.rollout import map_tensors
from sb3_pgx.engine import Objective
from sb3_pgx.ops.divergences import kl_categorical, kl_gaussian, log_prob_gaussian
from sb3_pgx.ops.objectives import weighted
from sb3_pgx.ops.off_policy import (
    categorical_divergence_gradient,
    categorical_gradient,
    dueling,
    gaussian_divergence_gradient,
    gaussian_gradient,
    logits_gradient,
    truncated_weights,
    trust_region,
)
from sb3_pgx.ops.returns import next_values, retrace

# Of log ρ of continuous actions: beyond it, ρ would overflow, and is 0 or truncated anyway.
MAX_LOG_RATIO = 20.0


class Coefficients(NamedTuple):
    """Their values during one update."""

    gamma: float
    importance_clip: float
    trust_region: bool
    trust_region_delta: float
    q_coef: float
    ent_coef: float
    in_logits: bool
    with_std: bool
    average_coef: float


class DiscreteEvaluation(NamedTuple):
    """What policy, average policy and critic say of segments, with Discrete actions."""

    log_probs: Tensor  # log π(·|s), [B, A]
    entropy: Tensor  # [B]
    action_values: Tensor  # Q(s, ·), [B, A]
    last_values: Tensor  # V of what followed the segments, [M]
    final_values: Tensor  # V of the final observations where episodes were truncated, a constant, [T, M]
    average: Tensor  # packed parameters of the average policy's distribution, a constant, [B, A]


class BoxEvaluation(NamedTuple):
    """The same with Box actions, several of them for each state: the one that was taken, and one that the policy drew now."""

    parameters: Tensor  # [B, 2 D]
    entropy: Tensor  # [B]
    values: Tensor  # V(s), [B]
    action_values: Tensor  # Q̃(s, a) of the one that was taken, [B]
    resampled_values: Tensor  # Q̃(s, a') of the other one, a constant, [B]
    actions: Tensor  # a and a', [2, B, D]
    last_values: Tensor  # [M]
    final_values: Tensor  # [T, M]
    average: Tensor  # [B, 2 D]


def evaluate_discrete(policy: ACERMixin, batch: Segments, average_policy: ACERMixin) -> DiscreteEvaluation:
    """One pass over the observations of the rows and those after them."""
    rows, final, average = len(batch), final_values(policy, batch), average_distribution(average_policy, batch)
    distribution, latent = policy.distribution_and_latent(batch.observations)
    action_values = policy.value_net(latent)
    values = policy.values_of(distribution, action_values)
    log_probs, entropy = packed(distribution), distribution.entropy()
    assert entropy is not None
    last_values = values[rows:].flatten()
    return DiscreteEvaluation(log_probs[:rows], entropy[:rows], action_values[:rows], last_values, final, average)


def evaluate_box(policy: ACERMixin, batch: Segments, average_policy: ACERMixin) -> BoxEvaluation:
    """The same; every Q̃ has actions of its own to subtract the advantage of."""
    assert batch.noise is not None and batch.bounds is not None
    rows, final, average = len(batch), final_values(policy, batch), average_distribution(average_policy, batch)
    distribution, latent = policy.distribution_and_latent(batch.observations)
    parameters, values, entropy = packed(distribution)[:rows], policy.value_net(latent).flatten(), distribution.entropy()
    assert entropy is not None
    mean, std = parameters.detach().chunk(2, dim=1)
    drawn, sampled = (mean + std * batch.noise).tensor_split([1])  # a', [1, B, D], and n actions for each Q̃, [2 n, B, D]
    actions, (first, second) = th.cat([batch.actions[None].float(), drawn]), sampled.chunk(2)
    action_values = dueling_values(policy, latent[:rows], values[:rows], th.cat([actions[:1], first]), batch.bounds)
    with th.no_grad():
        resampled_values = dueling_values(policy, latent[:rows], values[:rows], th.cat([drawn, second]), batch.bounds)
    return BoxEvaluation(
        parameters, entropy[:rows], values[:rows], action_values, resampled_values, actions, values[rows:], final, average
    )


def average_distribution(average_policy: ACERMixin, batch: Segments) -> Tensor:
    """Packed parameters of the average policy's distribution in the rows, ``[B, K]``."""
    rows = len(batch)
    with th.no_grad():
        return packed(average_policy.get_distribution(map_tensors(lambda x: x[:rows], batch.observations)))


def final_values(policy: ACERMixin, batch: Segments) -> Tensor:
    """V of the final observations where episodes were truncated, 0 elsewhere, ``[T, M]``."""
    if batch.final_observations is None:
        return th.zeros_like(batch.rewards)
    with th.no_grad(), evaluating(policy):
        values = policy.predict_values(batch.final_observations).flatten()
    truncated = batch.truncated.flatten()
    order = (truncated.cumsum(0) - 1).clamp(min=0)
    return th.where(truncated, values[order], 0.0).view_as(batch.rewards)


@contextmanager
def evaluating(policy: ACERMixin) -> Iterator[None]:
    """In evaluation mode: final observations are no data to learn from, and there may be a single one."""
    training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(training)


def dueling_values(policy: ACERMixin, latent: Tensor, values: Tensor, actions: Tensor, bounds: Tensor) -> Tensor:
    """
    Q̃(s, a) of the first of the actions ``[1 + n, B, D]``, by means of the others, ``[B]``.

    The environment clips actions, and so does A(s, ·), which is flat beyond the bounds: what a network makes of the slope
    within them would draw the mean of the policy ever further out, where no return tells it otherwise.
    """
    advantages = policy.advantage_net(latent, actions.clamp(*bounds.unbind()))
    return dueling(values, advantages[0], advantages[1:])


def discrete_objective(now: DiscreteEvaluation, batch: Segments, c: Coefficients) -> dict[str, Tensor]:
    """The loss of segments under ``"loss"``, and its parts."""
    actions = batch.actions.flatten().long()
    log_probs, all_values = now.log_probs.detach(), now.action_values.detach()
    probs, behaviour, average = log_probs.exp(), batch.behaviour.softmax(dim=1), now.average.softmax(dim=1)
    values = (probs * all_values).sum(dim=1)
    action_values = taken(now.action_values, actions)
    ratio = taken(probs, actions) / taken(behaviour, actions)
    returns = targets(batch, now, values, action_values, ratio.clamp(max=1.0), c.gamma)

    gradient = categorical_gradient(probs, behaviour, actions, returns, all_values, values, c.importance_clip)
    score = -(probs * gradient * log_probs.masked_fill(probs == 0, 0.0)).sum(dim=1).mean()
    if c.in_logits:
        gradient, away, statistics = logits_gradient(probs, gradient), probs - average, now.log_probs
    else:
        away, statistics = categorical_divergence_gradient(probs, average), now.log_probs.exp()
    q_loss = 0.5 * (returns - action_values).square().mean()
    policy = Actor(statistics, gradient, away, now.entropy, ratio, kl_categorical(now.average, log_probs))
    return descend(policy, q_loss, c) | {"policy_loss": score, "q_loss": q_loss, "value": values.mean()}


def box_objective(now: BoxEvaluation, batch: Segments, c: Coefficients) -> dict[str, Tensor]:
    """The same for Box."""
    parameters, values = now.parameters.detach(), now.values.detach()
    log_density = log_prob_gaussian(parameters, now.actions)
    log_ratio = log_density - log_prob_gaussian(batch.behaviour, now.actions)
    ratio, resampled_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    traces = (log_ratio[0] / now.actions.shape[2]).clamp(max=0.0).exp()  # min(1, ρ^(1/D)), the root of ρ however small it is
    returns = targets(batch, now, values, now.action_values, traces, c.gamma)
    corrected = targets(batch, now, values, now.action_values, th.ones_like(ratio), c.gamma)  # Q^opc

    advantages = th.stack([corrected - values, now.resampled_values.detach() - values])
    weights = truncated_weights(ratio, resampled_ratio, c.importance_clip) * advantages
    score = -(weights * log_density).sum(dim=0).mean()
    gradient = gaussian_gradient(parameters, now.actions, weights, c.with_std)
    away = gaussian_divergence_gradient(parameters, now.average, c.with_std)
    mean, std = now.parameters.chunk(2, dim=1)
    statistics = th.cat([mean, std.log()], dim=1) if c.with_std else mean
    surprise = returns - now.action_values
    q_loss = 0.5 * surprise.square().mean()
    value_loss = 0.5 * (ratio.clamp(max=1.0) * surprise.detach() + values - now.values).square().mean()
    policy = Actor(statistics, gradient, away, now.entropy, ratio, kl_gaussian(now.average, parameters))
    losses = {"policy_loss": score, "q_loss": q_loss, "value_loss": value_loss, "value": values.mean()}
    return descend(policy, q_loss + value_loss, c) | losses


class Actor(NamedTuple):
    """What the gradient of the policy is made of."""

    statistics: Tensor  # φ, [B, S]
    gradient: Tensor  # of what is to be maximised, in φ, a constant, [B, S]
    away: Tensor  # of the divergence from the average policy, likewise
    entropy: Tensor  # [B]
    ratio: Tensor  # ρ of the actions that were taken, a constant, [B]
    average_kl: Tensor  # KL(average‖policy), a constant, [B]


def descend(actor: Actor, critic_loss: Tensor, c: Coefficients) -> dict[str, Tensor]:
    """
    The loss, whose gradient in φ is that of the trust region, and metrics of the actor. The entropy's is added outside of the
    trust region.
    """
    step = trust_region(actor.gradient, actor.away, c.trust_region_delta) if c.trust_region else actor.gradient
    entropy = actor.entropy.mean()
    loss = c.q_coef * critic_loss - (step * actor.statistics).sum(dim=1).mean() - weighted(c.ent_coef, entropy)
    return {
        "loss": loss,
        "entropy_loss": -entropy,
        "ratio": actor.ratio.mean(),
        "ratio_max": actor.ratio.max(),
        "truncated_fraction": (actor.ratio > c.importance_clip).float().mean(),
        "trust_region_fraction": (step != actor.gradient).any(dim=1).float().mean(),
        "average_kl": actor.average_kl.mean(),
    }


def targets(
    batch: Segments,
    now: DiscreteEvaluation | BoxEvaluation,
    values: Tensor,
    action_values: Tensor,
    traces: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """Q^ret of the rows, a constant, ``[B]``; from V of what followed, and V(s), Q(s, a) and the traces c of the rows."""
    values, action_values, traces = (x.detach().view_as(batch.rewards) for x in (values, action_values, traces))
    following = next_values(values, now.last_values.detach(), batch.terminated, batch.truncated, now.final_values)
    ends = batch.terminated | batch.truncated
    return retrace(batch.rewards, action_values, following, traces, ends, gamma).flatten()


def taken(values: Tensor, actions: Tensor) -> Tensor:
    """Of values of every action, ``[B, A]``, those of the actions that were taken, ``[B]``."""
    return values.gather(1, actions[:, None]).flatten()


def averaged(average: Tensor, parameter: Tensor, c: Coefficients) -> Tensor:
    """A parameter of the average policy after an update, θ_a ← α θ_a + (1 − α) θ."""
    return average + (1 - c.average_coef) * (parameter - average)


DISCRETE_OBJECTIVE = Objective(discrete_objective, evaluate_discrete, reads_distribution=True, follows=averaged)
BOX_OBJECTIVE = Objective(box_objective, evaluate_box, reads_distribution=True, follows=averaged)
