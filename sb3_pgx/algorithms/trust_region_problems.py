"""
The two constrained problems that NPG and TRPO solve, as values of :class:`~sb3_pgx.stages.trust_region.Problem`:

- ``POLICY``: maximise the surrogate A π(a|s) / π_old(a|s) subject to a bound on KL(π_old‖π),
- ``CRITIC``: minimise the squared error of V subject to a bound on the squared change of V.

Recurrent networks need inputs in fixed shapes, since only the operators for these have the derivatives of curvature.
"""

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import family_of, packed
from sb3_pgx.core.evaluation import predict_values
from sb3_pgx.core.policies import made_distribution
from sb3_pgx.core.rollout import PolicyInputs, as_policy_input
from sb3_pgx.stages.trust_region import Problem


def _distribution(policy: ActorCriticPolicy, inputs: PolicyInputs) -> Tensor:
    return packed(made_distribution(policy, inputs))


def _surrogate(policy: ActorCriticPolicy, _: Tensor, advantages: Tensor, actions: Tensor, log_prob: Tensor) -> Tensor:
    """Return A π(a|s) / π_old(a|s) per row."""
    now = policy.action_dist.log_prob(as_policy_input(actions, policy.action_space))
    return advantages * (now - log_prob).exp()


def _fisher(policy: ActorCriticPolicy, parameters: Tensor, tangents: Tensor) -> Tensor:
    return family_of(policy.action_dist).fisher(parameters, tangents)


def _kl(policy: ActorCriticPolicy, old: Tensor, new: Tensor) -> Tensor:
    return family_of(policy.action_dist).kl(old, new)


def _values(policy: ActorCriticPolicy, inputs: PolicyInputs) -> Tensor:
    return predict_values(policy, inputs)[:, None]


def _negative_error(_: ActorCriticPolicy, values: Tensor, returns: Tensor) -> Tensor:
    return -(values.flatten() - returns).square()


def _identity(_: ActorCriticPolicy, __: Tensor, tangents: Tensor) -> Tensor:
    return tangents


def _squared_change(_: ActorCriticPolicy, old: Tensor, new: Tensor) -> Tensor:
    return (new - old).flatten().square()


# Data: advantages, actions, and log π_old(a|s). The divergence is KL(π_old‖π), summed over action dimensions.
POLICY = Problem(_distribution, _surrogate, 3, _fisher, _kl)
# Data: returns. The divergence is (V − V_old)².
CRITIC = Problem(_values, _negative_error, 1, _identity, _squared_change)
