"""Evaluate a policy on a batch of actions. Training evaluates batches only here; derivatives per sample are elsewhere."""

from typing import NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import packed
from sb3_pgx.core.policies import unchecked
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
    Evaluate actions with the policy's own ``evaluate_actions``.

    :param policy: policy, in the mode (training or evaluation) in which it is to be evaluated
    :param inputs: observations and action masks of B rows
    :param actions: actions as a rollout stores them, ``[B, action_dim]``
    :param with_distribution: whether to return the parameters of the action distribution
    """
    with unchecked(policy, inputs.action_masks):
        values, log_prob, entropy = policy.evaluate_actions(inputs.observations, as_policy_input(actions, policy.action_space))
        distribution = packed(policy.action_dist) if with_distribution else None
    return Evaluation(values.flatten(), log_prob, -log_prob if entropy is None else entropy, distribution)
