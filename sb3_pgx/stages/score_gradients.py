"""The score ∇_θ log π(a|s) of every sample on its own, for any SB3 policy."""

from collections.abc import Callable, Mapping

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import one_hot
from sb3_pgx.core.errors import first_line, is_torchs
from sb3_pgx.core.policies import masking
from sb3_pgx.core.rollout import Observations, PolicyInputs, as_policy_input, map_tensors
from sb3_pgx.engine.policy_function import PolicyFunction
from sb3_pgx.ops.per_sample import per_sample_gradients


def map_scores(
    function: Callable[[Tensor], Tensor],
    policy: ActorCriticPolicy,
    parameters: Mapping[str, Tensor],
    inputs: PolicyInputs,
    actions: Tensor,
    action_space: spaces.Space,
) -> Tensor:
    """
    A function of the scores, in chunks of samples, so that not all scores are held at once.

    :param function: of scores ∇_θ log π ``[rows, P]``, parameters flattened and concatenated in their order, to
        ``[rows, ...]``
    :param policy: in evaluation mode
    :param parameters: θ, some of the policy's parameters by name
    :param inputs: observations and action masks, ``[B, ...]``
    :param actions: ``[B, action_dim]``
    :param action_space: of one environment
    :return: ``[B, ...]``
    :raises ValueError: the policy cannot be differentiated sample by sample
    """
    log_prob = PolicyFunction(_log_prob_of_one, policy, parameters)
    observations = one_hot(inputs.observations, policy.observation_space)
    masks = [] if inputs.action_masks is None else [inputs.action_masks]
    samples = (observations, as_policy_input(actions, action_space), *masks)
    try:
        return th.cat([function(gradients) for _, gradients in per_sample_gradients(log_prob, parameters, samples)])
    except RuntimeError as error:
        if not is_torchs(error):
            raise
        raise ValueError(
            f"{type(policy).__name__} cannot be differentiated sample by sample, which variance-optimal baselines need "
            f'(torch says: {first_line(error)}). Use baseline="loo" instead.'
        ) from error


def _log_prob_of_one(policy: ActorCriticPolicy, observation: Observations, action: Tensor, *mask: Tensor) -> Tensor:
    """Return log π(a|s) of a single sample. SB3's policies take batches."""
    batch = map_tensors(lambda x: x[None], PolicyInputs(observation, mask[0] if mask else None))
    with masking(policy, batch.action_masks):
        return policy.evaluate_actions(batch.observations, action[None])[1].squeeze(0)
