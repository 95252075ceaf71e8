"""Policies of SB3's TD3 whose critic gives a distribution over returns instead of their mean."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.td3.policies import CnnPolicy, MultiInputPolicy, TD3Policy
from torch import Tensor, nn

from sb3_pgx.ops.distributional import atoms_between


class CategoricalCritic(ContinuousCritic):
    """
    A critic with a distribution over fixed atoms. Called as SB3's critics, it returns the mean of the distribution, Q(s, a).

    :param v_min: smallest atom
    :param v_max: largest atom
    :param n_atoms: number of atoms
    :param kwargs: arguments of SB3's critic
    """

    def __init__(self, v_min: float, v_max: float, n_atoms: int, **kwargs: Any):
        super().__init__(**kwargs, n_critics=1)
        self.v_min, self.v_max, self.n_atoms = v_min, v_max, n_atoms
        network: Any = self.q_networks[0]
        network[-1] = nn.Linear(network[-1].in_features, n_atoms)

    def atoms(self, like: Tensor) -> Tensor:
        """Return the atoms, ``[K]``, with type and device of another tensor."""
        return atoms_between(self.v_min, self.v_max, self.n_atoms, like)

    def logits(self, obs: Any, actions: Tensor) -> Tensor:
        """Return the logarithms of the atoms' probabilities, up to a constant per row, ``[B, K]``."""
        with th.set_grad_enabled(not self.share_features_extractor):  # as SB3: a shared one learns from the actor alone
            features = self.extract_features(obs, self.features_extractor)
        return self.q_networks[0](th.cat([features, actions], dim=1))

    def forward(self, obs: Any, actions: Tensor) -> tuple[Tensor, ...]:
        """Return Q(s, a), ``[B, 1]``, as the only element of a tuple."""
        logits = self.logits(obs, actions)
        return ((logits.softmax(dim=1) * self.atoms(logits)).sum(dim=1, keepdim=True),)

    def q1_forward(self, obs: Any, actions: Tensor) -> Tensor:
        """Return Q(s, a), ``[B, 1]``."""
        return self(obs, actions)[0]


class CategoricalMixin:
    """
    A policy of SB3's TD3 with one :class:`CategoricalCritic`.

    :param args: arguments of SB3's policy
    :param v_min: smallest atom
    :param v_max: largest atom
    :param n_atoms: number of atoms
    :param kwargs: further arguments of SB3's policy, except for ``n_critics``
    """

    def __init__(self, *args: Any, v_min: float = -150.0, v_max: float = 150.0, n_atoms: int = 51, **kwargs: Any):
        self.support = dict(v_min=v_min, v_max=v_max, n_atoms=n_atoms)  # SB3's constructor makes the critics
        super().__init__(*args, **kwargs)

    def make_critic(self: Any, features_extractor: BaseFeaturesExtractor | None = None) -> CategoricalCritic:
        """As SB3's: called while the policy is built."""
        kwargs = {**self._update_features_extractor(self.critic_kwargs, features_extractor), **self.support}
        del kwargs["n_critics"]
        return CategoricalCritic(**kwargs).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        given: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        del given["n_critics"]
        return {**given, **self.support}


class CategoricalPolicy(CategoricalMixin, TD3Policy):
    """For arrays of numbers."""


class CategoricalCnnPolicy(CategoricalMixin, CnnPolicy):
    """For images."""


class CategoricalMultiInputPolicy(CategoricalMixin, MultiInputPolicy):
    """For dictionaries."""
