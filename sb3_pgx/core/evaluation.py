"""What a policy says of actions. Training evaluates every batch here, and differentiates single samples elsewhere."""

from typing import NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import packed
from sb3_pgx.core.policies import unchecked
from sb3_pgx.core.rollout import Observations, as_policy_input


class Evaluation(NamedTuple):
    """The policy's evaluation of a batch."""

    values: Tensor  # [B]
    log_prob: Tensor  # [B]
    entropy: Tensor  # [B]; −log π where there is no closed form, as SB3 estimates it
    distribution: Tensor | None  # [B, K], packed parameters of the action distribution


def evaluate_actions(
    policy: ActorCriticPolicy, observations: Observations, actions: Tensor, with_distribution: bool = False
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
