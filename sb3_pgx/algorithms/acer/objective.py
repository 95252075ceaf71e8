"""ACER's losses (Wang et al., 2017): section 3 for Discrete actions, section 5 for Box actions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_pgx.algorithms.acer.policies import ACERMixin
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.core.distributions import packed
from sb3_pgx.core.policies import distribution_of, masking
from sb3_pgx.core.rollout import PolicyInputs, map_tensors
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

# Bound of |log ρ| for continuous actions. Beyond it, ρ could overflow, and is practically 0 or truncated anyway.
MAX_LOG_RATIO = 20.0


class Coefficients(NamedTuple):
    """Coefficients during one update."""

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
    """Outputs of policy, average policy and critic for segments, with Discrete actions."""

    log_probs: Tensor  # log π(·|s), [B, A]
    entropy: Tensor  # [B]
    action_values: Tensor  # Q(s, ·), [B, A]
    last_values: Tensor  # V of the observations after the segments, [M]
    final_values: Tensor  # V of the final observations where episodes were truncated, a constant, [T, M]
    average: Tensor  # packed parameters of the average policy's distribution, a constant, [B, A]


class BoxEvaluation(NamedTuple):
    """Outputs of policy, average policy and critic for segments, with Box actions: a was taken, a' is a new sample."""

    parameters: Tensor  # packed parameters of the action distribution, [B, 2 D]
    entropy: Tensor  # [B]
    values: Tensor  # V(s), [B]
    action_values: Tensor  # Q̃(s, a), [B]
    resampled_values: Tensor  # Q̃(s, a'), a constant, [B]
    actions: Tensor  # a and a', [2, B, D]
    last_values: Tensor  # V of the observations after the segments, [M]
    final_values: Tensor  # V of the final observations where episodes were truncated, a constant, [T, M]
    average: Tensor  # packed parameters of the average policy's distribution, a constant, [B, 2 D]


def evaluate_discrete(policy: ACERMixin, batch: Segments, average_policy: ACERMixin) -> DiscreteEvaluation:
    """Evaluate segments with Discrete actions in one pass over their observations and those that follow."""
    rows, final, average = len(batch), final_values(policy, batch), average_distribution(average_policy, batch)
    with masking(policy, batch.action_masks):
        distribution, latent = policy.distribution_and_latent(batch.observations)
    action_values = policy.value_net(latent)
    values = policy.values_of(distribution, action_values)
    log_probs, entropy = packed(distribution), distribution.entropy()
    assert entropy is not None
    last_values = values[rows:].flatten()
    return DiscreteEvaluation(log_probs[:rows], entropy[:rows], action_values[:rows], last_values, final, average)


def evaluate_box(policy: ACERMixin, batch: Segments, average_policy: ACERMixin) -> BoxEvaluation:
    """Evaluate segments with Box actions; each Q̃ uses its own sampled actions u_i."""
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
    """Return the packed parameters of the average policy's distribution, ``[B, K]``."""
    rows = len(batch)
    with th.no_grad():
        inputs = map_tensors(lambda x: x[:rows], PolicyInputs(batch.observations, batch.action_masks))
        return packed(distribution_of(average_policy, inputs))


def final_values(policy: ACERMixin, batch: Segments) -> Tensor:
    """Return V of the final observations where episodes were truncated, and 0 elsewhere, ``[T, M]``."""
    if batch.final_observations is None:
        return th.zeros_like(batch.rewards)
    with th.no_grad(), evaluating(policy), masking(policy, batch.final_masks):
        values = policy.predict_values(batch.final_observations).flatten()
    truncated = batch.truncated.flatten()
    order = (truncated.cumsum(0) - 1).clamp(min=0)
    return th.where(truncated, values[order], 0.0).view_as(batch.rewards)


@contextmanager
def evaluating(policy: ACERMixin) -> Iterator[None]:
    """Within this context the policy is in evaluation mode. BatchNorm must not learn from final observations."""
    training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(training)


def dueling_values(policy: ACERMixin, latent: Tensor, values: Tensor, actions: Tensor, bounds: Tensor) -> Tensor:
    """
    Return Q̃(s, a), ``[B]``, of a stochastic dueling network.

    A(s, ·) gets actions clipped to the bounds, as the environment does. Without that, the network would extrapolate its slope
    beyond the bounds and pull the policy's mean ever further out, where no return contradicts it.

    :param latent: input of the critic's heads, ``[B, latent]``
    :param values: V(s), ``[B]``
    :param actions: a, followed by the samples u_1 to u_n, ``[1 + n, B, D]``
    :param bounds: lowest and highest actions, ``[2, D]``
    """
    advantages = policy.advantage_net(latent, actions.clamp(*bounds.unbind()))
    return dueling(values, advantages[0], advantages[1:])


def discrete_objective(now: DiscreteEvaluation, batch: Segments, c: Coefficients) -> dict[str, Tensor]:
    """Return the loss of segments with Discrete actions as ``"loss"``, and its parts."""
    actions = batch.actions.flatten().long()
    log_probs, all_values = now.log_probs.detach(), now.action_values.detach()
    probs, behaviour, average = log_probs.exp(), batch.behaviour.softmax(dim=1), now.average.softmax(dim=1)
    values = (probs * all_values).sum(dim=1)
    action_values = taken(now.action_values, actions)
    ratio = taken(probs, actions) / taken(behaviour, actions)
    returns = targets(batch, now, values, action_values, ratio.clamp(max=1.0), c.gamma)

    g = categorical_gradient(probs, behaviour, actions, returns, all_values, values, c.importance_clip)
    policy_loss = -(probs * g * log_probs.masked_fill(probs == 0, 0.0)).sum(dim=1).mean()
    if c.in_logits:
        g, k, phi = logits_gradient(probs, g), probs - average, now.log_probs
    else:
        k, phi = categorical_divergence_gradient(probs, average), now.log_probs.exp()
    q_loss = 0.5 * (returns - action_values).square().mean()
    actor = Actor(phi, g, k, now.entropy, ratio, kl_categorical(now.average, log_probs))
    return total_loss(actor, q_loss, c) | {"policy_loss": policy_loss, "q_loss": q_loss, "value": values.mean()}


def box_objective(now: BoxEvaluation, batch: Segments, c: Coefficients) -> dict[str, Tensor]:
    """Return the loss of segments with Box actions as ``"loss"``, and its parts."""
    parameters, values = now.parameters.detach(), now.values.detach()
    log_density = log_prob_gaussian(parameters, now.actions)
    log_ratio = log_density - log_prob_gaussian(batch.behaviour, now.actions)
    ratio, resampled_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    traces = (log_ratio[0] / now.actions.shape[2]).clamp(max=0.0).exp()  # min(1, ρ^(1/D)), from the unclamped ρ
    returns = targets(batch, now, values, now.action_values, traces, c.gamma)
    corrected = targets(batch, now, values, now.action_values, th.ones_like(ratio), c.gamma)  # Q^opc

    advantages = th.stack([corrected - values, now.resampled_values.detach() - values])
    weights = truncated_weights(ratio, resampled_ratio, c.importance_clip) * advantages
    policy_loss = -(weights * log_density).sum(dim=0).mean()
    g = gaussian_gradient(parameters, now.actions, weights, c.with_std)
    k = gaussian_divergence_gradient(parameters, now.average, c.with_std)
    mean, std = now.parameters.chunk(2, dim=1)
    phi = th.cat([mean, std.log()], dim=1) if c.with_std else mean
    q_error = returns - now.action_values  # Q^ret − Q̃
    q_loss = 0.5 * q_error.square().mean()
    # The target of V is V + min(1, ρ) (Q^ret − Q̃) (eq. 14).
    value_loss = 0.5 * (ratio.clamp(max=1.0) * q_error.detach() + values - now.values).square().mean()
    actor = Actor(phi, g, k, now.entropy, ratio, kl_gaussian(now.average, parameters))
    losses = {"policy_loss": policy_loss, "q_loss": q_loss, "value_loss": value_loss, "value": values.mean()}
    return total_loss(actor, q_loss + value_loss, c) | losses


class Actor(NamedTuple):
    """Parts of the policy's gradient, in the paper's notation (§3.3)."""

    phi: Tensor  # φ, statistics of the action distribution, [B, S]
    g: Tensor  # gradient in φ of what is to be maximised, a constant, [B, S]
    k: Tensor  # gradient in φ of KL(average‖policy), a constant, [B, S]
    entropy: Tensor  # [B]
    ratio: Tensor  # ρ of the actions taken, a constant, [B]
    average_kl: Tensor  # KL(average‖policy), a constant, [B]


def total_loss(actor: Actor, critic_loss: Tensor, c: Coefficients) -> dict[str, Tensor]:
    """
    Return the loss as ``"loss"``, and metrics of the actor.

    The loss's gradient in φ is −z, where z is the policy's gradient g projected onto the trust region (eq. 12). The entropy is
    added outside of the trust region.

    :param actor: parts of the policy's gradient
    :param critic_loss: scalar
    :param c: coefficients of this update
    """
    z = trust_region(actor.g, actor.k, c.trust_region_delta) if c.trust_region else actor.g
    entropy = actor.entropy.mean()
    loss = c.q_coef * critic_loss - (z * actor.phi).sum(dim=1).mean() - weighted(c.ent_coef, entropy)
    return {
        "loss": loss,
        "entropy_loss": -entropy,
        "ratio": actor.ratio.mean(),
        "ratio_max": actor.ratio.max(),
        "truncated_fraction": (actor.ratio > c.importance_clip).float().mean(),
        "trust_region_fraction": (z != actor.g).any(dim=1).float().mean(),
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
    """
    Return Q^ret of the rows, a constant, ``[B]``.

    :param batch: segments, B rows
    :param now: their evaluation
    :param values: V(s), ``[B]``
    :param action_values: Q(s, a), ``[B]``
    :param traces: coefficients c of :func:`~sb3_pgx.ops.returns.retrace`, ``[B]``
    :param gamma: discount factor, in [0, 1]
    """
    values, action_values, traces = (x.detach().view_as(batch.rewards) for x in (values, action_values, traces))
    following = next_values(values, now.last_values.detach(), batch.terminated, batch.truncated, now.final_values)
    ends = batch.terminated | batch.truncated
    return retrace(batch.rewards, action_values, following, traces, ends, gamma).flatten()


def taken(values: Tensor, actions: Tensor) -> Tensor:
    """Pick the values of the actions taken, ``[B]``, from those of all actions, ``[B, A]``."""
    return values.gather(1, actions[:, None]).flatten()


def averaged(average: Tensor, parameter: Tensor, c: Coefficients) -> Tensor:
    """Return a parameter of the average policy after an update, θ_a ← α θ_a + (1 − α) θ."""
    return average + (1 - c.average_coef) * (parameter - average)


DISCRETE_OBJECTIVE = Objective(discrete_objective, evaluate_discrete, reads_distribution=True, follows=averaged)
BOX_OBJECTIVE = Objective(box_objective, evaluate_box, reads_distribution=True, follows=averaged)
