"""Policies in proportion to exp(Q/α): critics, and for Box actions a network that samples from them."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from sb3_pgx.ops.relaxed import gumbel_noise


class ActionSampler(BasePolicy):
    """
    A network that turns noise ξ ~ N(0, 1) into actions a = tanh(f(s, ξ)). Unlike a Gaussian, it can sample from any density.

    :param observation_space: observations
    :param action_space: a Box
    :param net_arch: sizes of the hidden layers
    :param features_extractor: makes features of observations
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: whether images are divided by 255
    :param noise_dim: numbers of noise per action
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module],
        normalize_images: bool,
        noise_dim: int,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.noise_dim = noise_dim
        self.f = nn.Sequential(*create_mlp(features_dim + noise_dim, get_action_dim(action_space), net_arch, activation_fn))

    def draw_noise(self, like: Tensor, n: int) -> Tensor:
        """Return ξ for n actions per row, ``[B, n, noise_dim]``, with rows, type and device of another tensor."""
        return th.empty((len(like), n, self.noise_dim), dtype=like.dtype, device=like.device).normal_()

    def before_tanh(self, observations: Any, n: int) -> Tensor:
        """
        Return f(s, ξ) for several ξ per observation, ``[B, n, D]``.

        :param observations: ``[B, *obs]``
        :param n: actions per observation
        """
        features = self.extract_features(observations, self.features_extractor)
        return self.of_features(features, self.draw_noise(features, n))

    def of_features(self, features: Tensor, noise: Tensor) -> Tensor:
        """
        Return f(s, ξ), ``[B, n, D]``.

        :param features: of s, ``[B, F]``
        :param noise: ξ, ``[B, n, noise_dim]``
        """
        repeated = features[:, None].expand(-1, noise.shape[1], -1)
        return self.f(th.cat([repeated, noise], dim=2))

    def forward(self, observations: Any, n: int = 1) -> Tensor:
        """Return samples of actions, scaled to [−1, 1], ``[B, n, D]``."""
        return self.before_tanh(observations, n).tanh()

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self(observation)[:, 0]


class SoftQPolicy(SACPolicy):
    """
    A policy in proportion to exp(Q(s, a)/α) for Box actions: critics, their targets, and a network ``actor`` that samples. As
    the deterministic action it takes the best of some samples by Q, always from the same noise.

    :param observation_space: observations
    :param action_space: a Box
    :param lr_schedule: learning rate
    :param net_arch: sizes of hidden layers, or ``dict(pi=[…], qf=[…])``. Typical: two of 64 to 256 units
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the networks that make features of observations
    :param features_extractor_kwargs: further arguments of it
    :param normalize_images: whether images are divided by 255
    :param optimizer_class: class of the optimizers
    :param optimizer_kwargs: further arguments of the optimizers
    :param n_critics: networks of the critic. Typical: 1 as in the paper, or 2
    :param mean_of_critics: Q is the mean of the networks, which composes critics of several tasks (Haarnoja et al., 2018a).
        ``False``: the smallest, which counters overestimation
    :param noise_dim: numbers of noise per action; ``None``: as many as the action has
    :param n_candidates: samples of which the deterministic action is the best
    """

    actor: ActionSampler  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
        mean_of_critics: bool = False,
        noise_dim: int | None = None,
        n_candidates: int = 32,
    ):
        # SB3's constructor makes the networks.
        self._given: dict[str, Any] = dict(mean_of_critics=mean_of_critics, noise_dim=noise_dim, n_candidates=n_candidates)
        self._noise_dim = get_action_dim(action_space) if noise_dim is None else noise_dim
        self.mean_of_critics, self.n_candidates = mean_of_critics, n_candidates
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> ActionSampler:  # type: ignore[override]
        """Return a new sampling network; SB3's constructor calls this."""
        kwargs = self._update_features_extractor(self.net_args, features_extractor)
        return ActionSampler(**kwargs, noise_dim=self._noise_dim).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        given = super()._get_constructor_parameters()
        for name in ("use_sde", "log_std_init", "use_expln", "clip_mean"):
            del given[name]
        return {**given, **self._given}

    def q_values(self, critic: ContinuousCritic, observations: Any, actions: Tensor) -> Tensor:
        """
        Return Q(s, a) of several actions per observation, ``[B, n]``.

        :param critic: ``critic`` or ``critic_target``
        :param observations: ``[B, *obs]``
        :param actions: ``[B, n, D]``
        """
        features = critic.extract_features(observations, critic.features_extractor)
        inputs = th.cat([features[:, None].expand(-1, actions.shape[1], -1), actions], dim=2)
        values = th.cat([network(inputs) for network in critic.q_networks], dim=2)  # [B, n, critics]
        return values.mean(dim=2) if self.mean_of_critics else values.min(dim=2).values

    def candidates(self, observations: Any) -> Tensor:
        """Return the actions of which the deterministic one is the best by Q, ``[B, n_candidates, D]``."""
        features = self.actor.extract_features(observations, self.actor.features_extractor)
        always = th.Generator().manual_seed(0)
        noise = th.randn((self.n_candidates, self._noise_dim), generator=always).to(features)
        return self.actor.of_features(features, noise.expand(len(features), -1, -1)).tanh()

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        if not deterministic:
            return self.actor(observation)[:, 0]
        actions = self.candidates(observation)
        best = self.q_values(self.critic, observation, actions).argmax(dim=1)
        return actions[th.arange(len(actions), device=actions.device), best]


class ChoiceCritic(QNetwork):
    """SB3's network of Q(s, ·). Given actions, it returns their Q(s, a), as SB3's critics of Box actions do."""

    def forward(self, obs: Any, actions: Tensor | None = None) -> Any:
        """
        Return Q(s, ·), ``[B, A]``, or Q(s, a), ``[B, 1]``, as the only element of a tuple.

        :param obs: ``[B, *obs]``
        :param actions: numbers of the choices, ``[B, 1]``, or ``None``
        """
        values = super().forward(obs)
        return values if actions is None else (values.gather(1, actions.long()),)


class DiscreteSoftQPolicy(DQNPolicy):
    """
    A policy in proportion to exp(Q(s, a)/α) for Discrete actions. The deterministic action is the best one.

    :param args: arguments of SB3's ``DQNPolicy``
    :param temperature: α
    :param kwargs: further arguments of SB3's ``DQNPolicy``
    """

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any):
        self.temperature = temperature  # SB3's constructor makes the networks
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> ChoiceCritic:
        """Return a new critic; SB3's constructor calls this."""
        return ChoiceCritic(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)

    @property
    def critic(self) -> QNetwork:
        """The critic, under the name that it has for Box actions."""
        return self.q_net

    @property
    def critic_target(self) -> QNetwork:
        """The target network, under the name that it has for Box actions."""
        return self.q_net_target

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "temperature": self.temperature}

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Return the choices as they are, which have no scale."""
        return action

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Return the choices as they are, which have no scale."""
        return scaled_action

    def _predict(self, obs: Any, deterministic: bool = False) -> Tensor:
        values = self.q_net(obs)
        return (values if deterministic else values / self.temperature + gumbel_noise(values)).argmax(dim=1)


class SoftQCnnPolicy(SoftQPolicy):
    """For images."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class SoftQMultiInputPolicy(SoftQPolicy):
    """For dictionaries."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


class DiscreteSoftQCnnPolicy(DiscreteSoftQPolicy):
    """For images."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class DiscreteSoftQMultiInputPolicy(DiscreteSoftQPolicy):
    """For dictionaries."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})
