"""Evaluate a policy on a batch of rows. Training evaluates batches only here; derivatives per sample are elsewhere."""

from typing import Any, NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import packed, sample_with
from sb3_pgx.core.policies import takes_masks, unchecked
from sb3_pgx.core.recurrent_evaluation import Latents, features_of, latents_of, recurrent_values
from sb3_pgx.core.rollout import PolicyInputs, as_policy_input


class Evaluation(NamedTuple):
    """Values, log-probabilities, entropy and distributions of a policy for a batch."""

    values: Tensor  # [B]
    log_prob: Tensor  # [B]
    entropy: Tensor  # [B]; −log π if there is no closed form, as SB3 estimates it
    distribution: Tensor | None  # [B, K], packed parameters of the action distribution


def evaluate_actions(
    policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, with_distribution: bool = False
) -> Evaluation:
    """
    Evaluate actions with the policy's own ``evaluate_actions``, or, for a recurrent policy, on packed rows.

    :param policy: policy, in the mode (training or evaluation) in which it is to be evaluated
    :param inputs: observations, action masks and memory of B rows
    :param actions: actions as a rollout stores them, ``[B, action_dim]``
    :param with_distribution: whether to return the parameters of the action distribution
    """
    if inputs.memory is not None:
        latents = latents_of(policy, features_of(policy, inputs.observations), inputs.memory)
        return evaluate_latents(policy, latents, inputs.action_masks, actions, with_distribution)
    with unchecked(policy, inputs.action_masks):
        return _evaluated(policy, inputs, actions, with_distribution)


def evaluate_and_sample(
    policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, noise: Tensor
) -> tuple[Evaluation, Tensor]:
    """
    Evaluate actions with the policy's own ``evaluate_actions``, and sample others from the same distributions.

    :param policy: policy without memory, in the mode (training or evaluation) in which it is to be evaluated
    :param inputs: observations and action masks of B rows
    :param actions: actions as a rollout stores them, ``[B, action_dim]``
    :param noise: random numbers of the distribution's :func:`~sb3_pgx.core.distributions.noise_source`
    :return: the evaluation, with the distribution's parameters, and log π of the sampled actions, ``[B]``
    """
    with unchecked(policy, inputs.action_masks):
        evaluation = _evaluated(policy, inputs, actions, with_distribution=True)
        sampled = sample_with(policy.action_dist, noise).detach()
        return evaluation, policy.action_dist.log_prob(sampled)


def _evaluated(policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, with_distribution: bool) -> Evaluation:
    taken, own = as_policy_input(actions, policy.action_space), takes_masks(policy.evaluate_actions, inputs.action_masks)
    values, log_prob, entropy = policy.evaluate_actions(inputs.observations, taken, **own)
    distribution = packed(policy.action_dist) if with_distribution else None
    return Evaluation(values.flatten(), log_prob, -log_prob if entropy is None else entropy, distribution)


def evaluate_latents(
    policy: Any, latents: Latents, action_masks: Tensor | None, actions: Tensor, with_distribution: bool = False
) -> Evaluation:
    """
    Evaluate actions of a recurrent policy from its last hidden layers.

    :param policy: recurrent policy
    :param latents: last hidden layers of actor and critic
    :param action_masks: which actions are valid, ``[B, M]``; ``None``: all of them
    :param actions: actions as a rollout stores them, ``[B, action_dim]``
    :param with_distribution: whether to return the parameters of the action distribution
    """
    with unchecked(policy, action_masks):
        made = policy._get_action_dist_from_latent(latents.pi)
        log_prob, entropy = made.log_prob(as_policy_input(actions, policy.action_space)), made.entropy()
        distribution = packed(made) if with_distribution else None
    values = policy.value_net(latents.vf).flatten()
    return Evaluation(values, log_prob, -log_prob if entropy is None else entropy, distribution)


def predict_values(policy: ActorCriticPolicy, inputs: PolicyInputs) -> Tensor:
    """
    Return V, ``[B]``.

    :param policy: policy, in the mode (training or evaluation) in which it is to be evaluated
    :param inputs: observations and memory of B rows
    """
    if inputs.memory is not None:
        return recurrent_values(policy, features_of(policy, inputs.observations), inputs.memory).flatten()
    return policy.predict_values(inputs.observations).flatten()
