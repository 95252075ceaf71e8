"""Eager acting of policies with SB3's networks and distributions, without the objects of the distributions."""

import math
from typing import Any

from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from torch import Tensor

from sb3_pgx.core.distributions import largest, noise_source
from sb3_pgx.core.mixed_spaces import action_shape
from sb3_pgx.core.policies import can_skip_forward
from sb3_pgx.core.rollout import Observations
from sb3_pgx.engine.plain_networks import PlainNetworks, is_plain

_SAMPLED: tuple[type[Distribution], ...] = (CategoricalDistribution, DiagGaussianDistribution)


class PlainActor:
    """
    Samples the actions that the policy's ``_predict`` would sample, from the same random numbers.

    :param policy: policy for which :func:`acts_plainly` holds, as long as nobody changes its layers
    :param n_envs: N, number of environments
    """

    def __init__(self, policy: Any, n_envs: int):
        self._networks, self._head = PlainNetworks(policy), policy.action_net.forward
        self._shape = action_shape(policy.action_space)
        discrete = isinstance(policy.action_dist, CategoricalDistribution)
        self._log_std: Tensor | None = None if discrete else policy.log_std
        self._noise = noise_source(policy.action_dist, n_envs, policy.device)

    def __call__(self, observations: Observations) -> Tensor | None:
        """
        Sample actions, without gradients.

        :param observations: ``[N, *obs]``
        :return: actions, ``[N, *action]``; ``None`` if the distribution is not finite, before a random number is drawn
        """
        outputs = self._head(self._networks.actor(observations))
        if self._log_std is None:
            probs = outputs.log_softmax(dim=1).softmax(dim=1)  # torch's distribution rounds like this
            return largest(probs, self._noise()) if math.isfinite(probs.sum()) else None
        std = self._log_std.exp()
        if not (math.isfinite(outputs.sum()) and math.isfinite(std.sum())):
            return None
        return (outputs + self._noise() * std).reshape((-1, *self._shape))


def acts_plainly(policy: Any) -> bool:
    """Return whether a policy acts by SB3's networks without hooks, and chooses one option or is Gaussian."""
    return type(policy.action_dist) in _SAMPLED and can_skip_forward(policy) and is_plain(policy)
