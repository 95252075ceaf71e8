"""
SB3's standard networks as plain sequences of functions. In eager steps on small batches, the machinery around each module
takes as long as its arithmetic.
"""

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn

from sb3_pgx.core.policies import is_sb3s
from sb3_pgx.core.recurrent_evaluation import Latents, is_recurrent
from sb3_pgx.core.rollout import Observations
from sb3_pgx.engine.layers import has_hooks

_METHODS = ("evaluate_actions", "extract_features", "get_distribution", "_get_action_dist_from_latent")


class PlainNetworks:
    """
    The layers between observations and the heads of a policy, called without hooks.

    :param policy: policy for which :func:`is_plain` holds; whoever keeps this asks again after a change of its layers
    """

    def __init__(self, policy: Any):
        self._space, self._normalize_images = policy.observation_space, policy.normalize_images
        extractor, self._is_shared = policy.mlp_extractor, policy.share_features_extractor
        self._features = [x.forward for x in _extractors(policy)]
        self._actor, self._critic = ([x.forward for x in net] for net in (extractor.policy_net, extractor.value_net))

    def actor(self, observations: Observations) -> Tensor:
        """Return the actor's last hidden layer, ``[B, H]``."""
        return _through(self._actor, self._features[0](self._preprocessed(observations)))

    def latents(self, observations: Observations) -> Latents:
        """Return the last hidden layers of actor and critic, ``[B, H]`` each."""
        inputs = self._preprocessed(observations)
        pi = vf = self._features[0](inputs)
        if not self._is_shared:
            vf = self._features[1](inputs)
        return Latents(_through(self._actor, pi), _through(self._critic, vf))

    def _preprocessed(self, observations: Observations) -> Any:
        return preprocess_obs(observations, self._space, self._normalize_images)


def is_plain(policy: Any) -> bool:
    """Return whether a policy's networks are SB3's, and nothing happens at their modules but their ``forward``."""
    extractor = getattr(policy, "mlp_extractor", None)
    if is_recurrent(policy) or not is_sb3s(policy, *_METHODS) or type(extractor) is not MlpExtractor:
        return False
    if {"forward", "forward_actor", "forward_critic"} & vars(extractor).keys():
        return False
    nets = (extractor.policy_net, extractor.value_net)
    modules = [*_extractors(policy), extractor, *nets, *(layer for net in nets for layer in net), policy.action_net]
    return all(type(x).__call__ is nn.Module.__call__ and not has_hooks(x) for x in modules)


def methods_set_on(policy: Any) -> list[str]:
    """Return which of the methods that evaluate a policy have been set on the object, in place of its class's."""
    return [name for name in _METHODS if name in vars(policy)]


def _extractors(policy: Any) -> Sequence[nn.Module]:
    if policy.share_features_extractor:
        return [policy.features_extractor]
    return [policy.pi_features_extractor, policy.vf_features_extractor]


def _through(forwards: Sequence[Any], x: Tensor) -> Tensor:
    for forward in forwards:
        x = forward(x)
    return x
