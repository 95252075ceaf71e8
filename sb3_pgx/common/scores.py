"""The score ∇_θ log π(a|s) of every sample on its own, for any SB3 policy."""

from collections.abc import Callable, Mapping

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.func import functional_call

from sb3_pgx.common.distributions import distribution_kept, one_hot, takes_one_hot, without_validation
from sb3_pgx.common.evaluate import as_policy_input
from sb3_pgx.common.rollout import Observations
from sb3_pgx.ops.per_sample import per_sample_gradients


def map_scores(
    function: Callable[[Tensor], Tensor],
    policy: ActorCriticPolicy,
    parameters: Mapping[str, Tensor],
    observations: Observations,
    actions: Tensor,
    action_space: spaces.Space,
) -> Tensor:
    """
    A function of the scores, in chunks of samples, so that not all scores are held at once.

    :param function: of scores ∇_θ log π ``[rows, P]``, parameters flattened and concatenated in their order, to
        ``[rows, ...]``
    :param policy: in evaluation mode
    :param parameters: θ, some of the policy's parameters by name
    :param observations: ``[B, *obs]``
    :param actions: ``[B, action_dim]``
    :param action_space: of one environment
    :return: ``[B, ...]``
    :raises ValueError: the policy cannot be differentiated sample by sample
    """
    module = _LogProbOfOne(policy)
    places = parameter_places(module, parameters)

    def log_prob(theta: Mapping[str, Tensor], observation: Observations, action: Tensor) -> Tensor:
        replaced = {place: theta[name] for place, name in places.items()}
        return functional_call(module, replaced, (observation, action), tie_weights=False)

    inputs = (one_hot(observations, policy.observation_space), as_policy_input(actions, action_space))
    with without_validation(), distribution_kept(policy), takes_one_hot(policy):
        try:
            return th.cat([function(gradients) for _, gradients in per_sample_gradients(log_prob, parameters, inputs)])
        except RuntimeError as error:
            raise ValueError(
                f"{type(policy).__name__} cannot be differentiated sample by sample, which variance-optimal baselines need "
                f'(torch says: {str(error).splitlines()[0]}). Use baseline="loo" instead.'
            ) from error


class _LogProbOfOne(nn.Module):
    """``functional_call`` calls ``forward``, and SB3's policies take batches."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observation: Observations, action: Tensor) -> Tensor:
        if isinstance(observation, dict):
            batch: Observations = {k: v[None] for k, v in observation.items()}
        else:
            batch = observation[None]
        return self.policy.evaluate_actions(batch, action[None])[1].squeeze(0)


def parameter_places(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """
    Every place in ``module`` that holds one of ``parameters``: path to name.

    SB3's policies register one feature extractor under three names. ``functional_call`` would then replace each of its
    parameters three times over, and put back the replacement instead of the original.
    """
    names = {id(p): name for name, p in parameters.items()}
    return {
        f"{path}.{attribute}" if path else attribute: names[id(p)]
        for path, child in module.named_modules()
        for attribute, p in child.named_parameters(recurse=False, remove_duplicate=False)
        if id(p) in names
    }
