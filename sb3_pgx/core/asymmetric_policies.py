"""Policies of which one part of the observations is for the critic alone: central critics, and asymmetric actor–critics."""

from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from torch import Tensor

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.mixed_policies import MixedActionsMixin, MixedActionsMultiInputPolicy
from sb3_pgx.core.policies import GaussianStdMixin, GaussianStdMultiInputPolicy

OPTION = "critic_key"


class CriticKeyMixin(GaussianStdMixin, MultiInputActorCriticPolicy):
    """
    A policy for Dict observations whose actor does not see one part of them. The critic sees all parts (Pinto et al., 2018;
    Lowe et al., 2017; Yu et al., 2022). Acting, and ``predict``, need no critic's part.

    Actor and critic have features extractors of their own.

    :param observation_space: Dict of observations
    :param args: further arguments of SB3's policy
    :param critic_key: name of the part that only the critic sees
    :param share_features_extractor: must be false
    :param kwargs: further arguments of SB3's policy and of :class:`~sb3_pgx.core.policies.GaussianStdMixin`
    :raises ValueError: the observations have no such part, or no other one; or the extractor is to be shared
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        *args: Any,
        critic_key: str,
        share_features_extractor: bool = False,
        **kwargs: Any,
    ):
        if share_features_extractor:
            raise ValueError(
                f"{OPTION}={critic_key!r} gives actor and critic different observations, so they cannot share a features "
                "extractor: leave share_features_extractor out"
            )
        self.critic_key, self._actors_space = critic_key, actors_space(observation_space, critic_key)
        super().__init__(observation_space, *args, share_features_extractor=False, **kwargs)

    def _build_mlp_extractor(self) -> None:
        # SB3 has made both extractors for all of the observations.
        inner = self.features_extractor_class(self._actors_space, **self.features_extractor_kwargs)
        self.pi_features_extractor = self.features_extractor = PartsExtractor(self._actors_space, inner)
        self.features_dim = inner.features_dim
        super()._build_mlp_extractor()
        of_critic = MlpExtractor(self.vf_features_extractor.features_dim, self.net_arch, self.activation_fn, self.device)
        self.mlp_extractor.value_net = of_critic.value_net

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), OPTION: self.critic_key}


class PartsExtractor(BaseFeaturesExtractor):
    """
    The features of some parts of a dictionary.

    :param space: Dict of these parts
    :param extractor: takes a dictionary of these parts
    """

    def __init__(self, space: spaces.Dict, extractor: BaseFeaturesExtractor):
        super().__init__(space, extractor.features_dim)
        self.extractor, self._keys = extractor, [*space.spaces]

    def forward(self, observations: Mapping[str, Tensor]) -> th.Tensor:
        """
        Return features, ``[B, F]``.

        :param observations: these parts, and others, which are ignored, ``[B, ...]`` each
        """
        return self.extractor({key: observations[key] for key in self._keys})


class AsymmetricMultiInputPolicy(CriticKeyMixin):
    """``MultiInputPolicy`` with ``critic_key``."""


class MixedActionsAsymmetricPolicy(CriticKeyMixin, MixedActionsMixin):
    """``MultiInputPolicy`` with ``critic_key``, for mixed actions."""


_WITH_CRITIC_KEY: dict[Any, type[CriticKeyMixin]] = {
    MultiInputActorCriticPolicy: AsymmetricMultiInputPolicy,
    GaussianStdMultiInputPolicy: AsymmetricMultiInputPolicy,
    MixedActionsMultiInputPolicy: MixedActionsAsymmetricPolicy,
}


def policy_class_with_critic_key(policy_class: Any, policy_kwargs: Mapping[str, Any], owner: str) -> Any:
    """
    Return the policy class to use: ours if ``policy_kwargs`` have ``critic_key``, otherwise the given one.

    :param policy_class: policy class that was asked for
    :param policy_kwargs: arguments of the policy
    :param owner: name of the algorithm, for the error
    :raises ValueError: there is no such class
    """
    known = isinstance(policy_class, type) and issubclass(policy_class, CriticKeyMixin)
    if OPTION not in policy_kwargs or known:
        return policy_class
    if policy_class not in _WITH_CRITIC_KEY:
        raise ValueError(
            f"{OPTION}={policy_kwargs[OPTION]!r} needs SB3's MultiInputPolicy with a critic V(s), but the policy of this "
            f"{owner} is {getattr(policy_class, '__name__', policy_class)}: use MultiInputPolicy with an algorithm that "
            "learns V(s), such as PPO or A2C, or derive the class from sb3_pgx.core.asymmetric_policies.CriticKeyMixin"
        )
    return _WITH_CRITIC_KEY[policy_class]


def actors_space(space: spaces.Space, critic_key: str) -> spaces.Dict:
    """
    Return the space of what the actor sees.

    :param space: observation space
    :param critic_key: name of the part that it does not see
    :raises ValueError: there is no such part, or no other one
    """
    if not isinstance(space, spaces.Dict) or critic_key not in space.spaces:
        parts = ", ".join(map(repr, space.spaces)) if isinstance(space, spaces.Dict) else f"none: it is {one_line(space)}"
        raise ValueError(f"{OPTION}={critic_key!r} is no part of the observations. Their parts are {parts}")
    rest = {key: part for key, part in space.spaces.items() if key != critic_key}
    if not rest:
        raise ValueError(f"{OPTION}={critic_key!r} is the only part of the observations: the actor needs one, too")
    return spaces.Dict(rest)
