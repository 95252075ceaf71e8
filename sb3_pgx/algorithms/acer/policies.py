"""Policies with the critics that ACER learns: Q of every action for Discrete, a stochastic dueling network for Box."""

import math
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_pgx.core.policies import GaussianStdMixin, restart_optimizer, samples_as_sb3


class ACERMixin(GaussianStdMixin):
    """
    An SB3 policy whose critic knows actions.

    For Discrete, ``value_net`` gives Q(s, ·), and V(s) = Σ_a π(a|s) Q(s, a). For Box, ``value_net`` gives V(s), and
    ``advantage_net`` the A(s, a) of a stochastic dueling network, for actions as the environment takes them, within bounds.

    :param learn_std: Box: whether the standard deviation is learned; the paper keeps it fixed. ``state_dependent_std`` learns
        it in any case
    :param log_std_init: Box: its logarithm, at the start or for good; the paper's σ is 0.3
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
        """Whether the standard deviation of the actions can change."""
        return self.state_dependent_std or (not self.is_discrete and self.log_std.requires_grad)

    @property
    def is_discrete(self) -> bool:
        """Whether there are finitely many actions."""
        return isinstance(self.action_space, spaces.Discrete)

    def distribution_and_latent(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        """π(·|s) and what the critic's heads read, ``[B, latent]``."""
        features: Any = self.extract_features(obs)
        if self.share_features_extractor:
            latent_pi, latent_vf = self.mlp_extractor(features)
        else:
            latent_pi = self.mlp_extractor.forward_actor(features[0])
            latent_vf = self.mlp_extractor.forward_critic(features[1])
        return self._get_action_dist_from_latent(latent_pi), latent_vf

    def values_of(self, distribution: Distribution, heads: Tensor) -> Tensor:
        """V(s), ``[B, 1]``, from π(·|s) and what ``value_net`` gives."""
        if not self.is_discrete:
            return heads
        return (distribution.distribution.probs * heads).sum(dim=1, keepdim=True)  # type: ignore[union-attr]

    @samples_as_sb3
    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distribution, latent_vf = self.distribution_and_latent(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        values, log_prob = self.values_of(distribution, self.value_net(latent_vf)), distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob  # type: ignore[misc]

    @samples_as_sb3
    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        distribution, latent_vf = self.distribution_and_latent(obs)
        values = self.values_of(distribution, self.value_net(latent_vf))
        return values, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        distribution, latent_vf = self.distribution_and_latent(obs)
        return self.values_of(distribution, self.value_net(latent_vf))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "learn_std": self.learn_std}


class AdvantageNet(nn.Module):
    """
    A(s, a) by one hidden layer on what the critic's head reads of the state, and on the action. Without a constant: it would
    cancel in Q̃, and be moved by rounding errors alone.

    :param latent_dim: of the state
    :param action_dim: D
    :param activation_fn: of the hidden layer
    :param hidden: its size
    """

    def __init__(self, latent_dim: int, action_dim: int, activation_fn: type[nn.Module], hidden: int = 64):
        super().__init__()
        self.of_state = nn.Linear(latent_dim, hidden)
        self.of_action = nn.Linear(action_dim, hidden, bias=False)
        self.rest = nn.Sequential(activation_fn(), nn.Linear(hidden, 1, bias=False))

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """
        :param latent: ``[B, latent]``
        :param actions: several for each state, ``[J, B, D]``
        :return: ``[J, B]``
        """
        return self.rest(self.of_state(latent) + self.of_action(actions)).squeeze(-1)


class ACERPolicy(ACERMixin, ActorCriticPolicy):
    """``MlpPolicy``."""


class ACERCnnPolicy(ACERMixin, ActorCriticCnnPolicy):
    """``CnnPolicy``."""


class ACERMultiInputPolicy(ACERMixin, MultiInputActorCriticPolicy):
    """``MultiInputPolicy``."""
