"""Policies with ACER's critics: Q(s, ·) for Discrete actions, a stochastic dueling network for Box actions."""

import math
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_pgx.core.distributions import probabilities
from sb3_pgx.core.policies import GaussianStdMixin, restart_optimizer, samples_as_sb3


class ACERMixin(GaussianStdMixin):
    """
    An SB3 policy with an action-value critic.

    For Discrete actions, ``value_net`` gives Q(s, ·), and V(s) = Σ_a π(a|s) Q(s, a). For Box actions, ``value_net`` gives V(s)
    and ``advantage_net`` gives A(s, a) of a stochastic dueling network, for actions clipped to their bounds.

    :param args: arguments of SB3's policy
    :param learn_std: Box: learn the standard deviation; the paper keeps it fixed. ``state_dependent_std`` always learns it
    :param log_std_init: Box: log of the standard deviation, initial or fixed. Typical: log 0.1 to log 1. Larger values explore
        more (Wang et al., 2017, §6, have log 0.3)
    :param kwargs: further arguments of SB3's policy and of :class:`~sb3_pgx.core.policies.GaussianStdMixin`
    """

    def __init__(self, *args: Any, learn_std: bool = False, log_std_init: float = math.log(0.3), **kwargs: Any):
        self.learn_std = learn_std
        super().__init__(*args, log_std_init=log_std_init, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        latent = self.mlp_extractor.latent_dim_vf
        if isinstance(self.action_space, spaces.Discrete):
            self.value_net = nn.Linear(latent, int(self.action_space.n))
            heads = [self.value_net]
        else:
            self.advantage_net = AdvantageNet(latent, get_action_dim(self.action_space), self.activation_fn)
            heads = [self.advantage_net.of_state, self.advantage_net.of_action]
            if not (self.learn_std or self.state_dependent_std):
                self.log_std.requires_grad_(False)
        if self.ortho_init:
            for head in heads:
                self.init_weights(head, gain=1)
        restart_optimizer(self, lr_schedule(1))

    @property
    def learns_std(self) -> bool:
        """Return whether the standard deviation of the actions is learned."""
        return self.state_dependent_std or (not self.is_discrete and self.log_std.requires_grad)

    @property
    def is_discrete(self) -> bool:
        """Return whether actions are Discrete."""
        return isinstance(self.action_space, spaces.Discrete)

    def distribution_and_latent(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        """
        Return π(·|s) and the input of the critic's heads, ``[B, latent]``.

        :param obs: observations, ``[B, *obs]``
        """
        features: Any = self.extract_features(obs)
        if self.share_features_extractor:
            latent_pi, latent_vf = self.mlp_extractor(features)
        else:
            latent_pi = self.mlp_extractor.forward_actor(features[0])
            latent_vf = self.mlp_extractor.forward_critic(features[1])
        return self._get_action_dist_from_latent(latent_pi), latent_vf

    def values_of(self, distribution: Distribution, heads: Tensor) -> Tensor:
        """
        Return V(s), ``[B, 1]``.

        :param distribution: π(·|s)
        :param heads: output of ``value_net``
        """
        if not self.is_discrete:
            return heads
        return (probabilities(distribution) * heads).sum(dim=1, keepdim=True)

    @samples_as_sb3
    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """
        Sample actions.

        :param obs: observations, ``[B, *obs]``
        :param deterministic: whether to take the most likely action
        :return: actions, V(s) ``[B, 1]`` and log π(a|s) ``[B]``
        """
        distribution, latent_vf = self.distribution_and_latent(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        values, log_prob = self.values_of(distribution, self.value_net(latent_vf)), distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob  # type: ignore[misc]

    @samples_as_sb3
    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Evaluate given actions.

        :param obs: observations, ``[B, *obs]``
        :param actions: actions, ``[B, *action]``
        :return: V(s) ``[B, 1]``, log π(a|s) ``[B]`` and the entropy ``[B]``
        """
        distribution, latent_vf = self.distribution_and_latent(obs)
        values = self.values_of(distribution, self.value_net(latent_vf))
        return values, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """
        Return V(s), ``[B, 1]``.

        :param obs: observations, ``[B, *obs]``
        """
        distribution, latent_vf = self.distribution_and_latent(obs)
        return self.values_of(distribution, self.value_net(latent_vf))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "learn_std": self.learn_std}


class AdvantageNet(nn.Module):
    """
    Network for A(s, a) with one hidden layer on state features and action. The output has no bias: it would cancel in Q̃, and
    only rounding errors would move it.

    :param latent_dim: size of the state features
    :param action_dim: D, size of an action
    :param activation_fn: activation of the hidden layer
    :param hidden: size of the hidden layer
    """

    def __init__(self, latent_dim: int, action_dim: int, activation_fn: type[nn.Module], hidden: int = 64):
        super().__init__()
        self.of_state = nn.Linear(latent_dim, hidden)
        self.of_action = nn.Linear(action_dim, hidden, bias=False)
        self.rest = nn.Sequential(activation_fn(), nn.Linear(hidden, 1, bias=False))

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """
        Return A(s, a) for J actions per state.

        :param latent: state features, ``[B, latent]``
        :param actions: ``[J, B, D]``
        :return: ``[J, B]``
        """
        return self.rest(self.of_state(latent) + self.of_action(actions)).squeeze(-1)


class ACERPolicy(ACERMixin, ActorCriticPolicy):
    """ACER's ``"MlpPolicy"``, for vector observations."""


class ACERCnnPolicy(ACERMixin, ActorCriticCnnPolicy):
    """ACER's ``"CnnPolicy"``, for images."""


class ACERMultiInputPolicy(ACERMixin, MultiInputActorCriticPolicy):
    """ACER's ``"MultiInputPolicy"``, for dictionaries."""
