"""Helpers for SB3's action distributions: packed parameters, divergences, sampling as a pure function, one-hot inputs."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Normal
from torch.overrides import TorchFunctionMode

from sb3_pgx.core.product import Product, joined
from sb3_pgx.ops.divergences import (
    entropy_categorical,
    fisher_bernoulli,
    fisher_categorical,
    fisher_gaussian,
    kl_bernoulli,
    kl_categorical,
    kl_gaussian,
    log_prob_categorical,
)


def release_graph(policy: ActorCriticPolicy) -> None:
    """
    Detach the tensors that the policy's distribution holds from its last forward pass. Tensors with a graph can be neither
    copied nor pickled, and they keep the activations of the whole batch in memory.
    """
    distribution = getattr(policy, "action_dist", None)
    if distribution is not None:
        _detach(distribution)


def _detach(distribution: Any) -> None:
    for name, value in vars(distribution).items():
        setattr(distribution, name, _detached(value))


def _detached(value: Any) -> Any:
    if isinstance(value, th.Tensor) and not isinstance(value, th.nn.Parameter):
        return value.detach()
    if isinstance(value, list):
        return [_detached(v) for v in value]
    if isinstance(value, Distribution):
        _detach(value)
    if isinstance(value, TorchDistribution):
        for name, inner in vars(value).items():
            if isinstance(inner, th.Tensor):
                setattr(value, name, inner.detach())
    return value


class Unvalidated(TorchFunctionMode):
    """
    A context without the argument checks of torch's distributions, because function transforms and traces cannot read values.

    It affects only the thread that enters it. Torch's own switch, ``set_default_validate_args``, affects the whole process.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Torch's base class calls a function that asks whether all truth values of a check are true: answer yes.
        if sys._getframe(1).f_globals["__name__"] == "torch.distributions.distribution" and _are_truth_values(args):
            return True
        return func(*args, **(kwargs or {}))


def _are_truth_values(args: Any) -> bool:
    return len(args) == 1 and isinstance(args[0], th.Tensor) and args[0].dtype is th.bool


@contextmanager
def distribution_kept(policy: ActorCriticPolicy) -> Iterator[None]:
    """Restore the policy's distribution at the end, because function transforms leave tensors in it that become invalid."""
    state = vars(policy.action_dist)
    before = dict(state)
    try:
        yield
    finally:
        state.clear()
        state.update(before)


def masked_logits(logits: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """
    Return logits that give invalid choices the probability 0. They have no gradient there. The smallest finite number, instead
    of −∞, keeps entropies and divergences finite; half of it leaves room for the normalisation.

    :param logits: ``[B, K]``
    :param masks: which choices are valid, boolean, or as bytes, which compiled loops read faster, ``[B, K]``
    """
    smallest = th.finfo(logits.dtype).min
    bounded = logits.clamp(min=smallest / 4)  # a valid option whose logit is −∞ is still the better
    if masks.dtype is th.bool:
        return th.where(masks, bounded, smallest / 2)
    valid = masks.to(logits.dtype)
    return valid * bounded + (1 - valid) * (smallest / 2)


def as_sb3s(distribution: Distribution) -> Distribution:
    """
    Return SB3's distribution in place of sb3-contrib's maskable one, and any other as it is.

    :param distribution: of a policy
    """
    contrib = sys.modules.get("sb3_contrib.common.maskable.distributions")
    if contrib is None or not isinstance(distribution, contrib.MaskableDistribution):
        return distribution
    if isinstance(distribution, contrib.MaskableMultiCategoricalDistribution):
        return MultiCategoricalDistribution([*map(int, distribution.action_dims)])
    return CategoricalDistribution(distribution.action_dim)


class Choice(CategoricalDistribution):
    """
    SB3's categorical distribution without torch's, which takes three times as many operations, most of them to check
    arguments. NaN among the logits gives NaN, and an error of torch when sampling: callers must check that results are finite.

    :param action_dim: K, number of choices
    :param masks: which choices are valid, ``[B, K]``; ``None``: all of them
    """

    logits: th.Tensor  # normalised, [B, K]

    def __init__(self, action_dim: int, masks: th.Tensor | None = None):
        super().__init__(action_dim)
        self.masks = masks

    def apply_masking(self, masks: Any) -> None:
        """Do nothing: overridden methods of sb3-contrib's policies apply masks that are applied already."""

    def proba_distribution(self, action_logits: th.Tensor) -> "Choice":
        """Set the logits, ``[B, K]``, which are masked and normalised here."""
        if self.masks is not None:
            action_logits = masked_logits(action_logits, self.masks)
        self.logits = action_logits.log_softmax(dim=1)
        return self

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Return log p(a), ``[B]``."""
        return log_prob_categorical(self.logits, actions.long())

    def entropy(self) -> th.Tensor:
        """Return the entropy, ``[B]``."""
        return entropy_categorical(self.logits)

    def mode(self) -> th.Tensor:
        """Return the most probable actions, ``[B]``."""
        return self.logits.argmax(dim=1)

    def sample(self) -> th.Tensor:
        """Draw actions, ``[B]``, from the same random numbers as torch's distribution."""
        probs = self.logits.softmax(dim=1)
        if not math.isfinite(probs.sum()):
            return th.multinomial(probs, 1, replacement=True).squeeze(1)  # which raises torch's error
        return largest(probs, th.empty_like(probs).exponential_())  # torch's function takes three times as long


def largest(probs: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Return the choices with the largest p / E, ``[B]``, as ``torch.multinomial`` does.

    :param probs: p, ``[B, K]``
    :param noise: E, exponentially distributed, ``[B, K]``
    """
    return (probs / noise).argmax(dim=1)


def probabilities(distribution: Distribution) -> th.Tensor:
    """Return the probabilities of a categorical distribution, ``[B, K]``."""
    if isinstance(distribution, Choice):
        return distribution.logits.softmax(dim=1)
    inner: Any = distribution.distribution
    return inner.probs


def has_one_hot(space: spaces.Space) -> bool:
    """Return whether SB3 encodes an observation, or a part of it, one-hot."""
    if isinstance(space, spaces.Dict):
        return any(has_one_hot(part) for part in space.spaces.values())
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete)


def one_hot(observations: Any, space: spaces.Space) -> Any:
    """
    Encode the discrete parts of observations one-hot, as SB3 does, and leave the other parts unchanged.

    The encoding reads values, which is impossible in a trace or a function transform. So encode first, and use
    :func:`takes_one_hot` to make the policy accept the result.
    """
    if isinstance(space, spaces.Dict):
        return {key: one_hot(observations[key], part) for key, part in space.spaces.items()}
    return preprocess_obs(observations, space) if has_one_hot(space) else observations


@contextmanager
def takes_one_hot(policy: ActorCriticPolicy) -> Iterator[None]:
    """Within this context, the policy accepts the result of :func:`one_hot`."""
    space = policy.observation_space
    policy.observation_space = _encoded_space(space)
    try:
        yield
    finally:
        policy.observation_space = space


def _encoded_space(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, _encoded_space(part)) for key, part in space.spaces.items()])  # a dict would be sorted
    if not has_one_hot(space):
        return space
    size = int(get_flattened_obs_dim(space))
    return spaces.Box(0.0, 1.0, (size,), np.float32)


@dataclass(frozen=True)
class Family:
    """
    A family of action distributions. Its members are given by their packed parameters, ``[B, K]``.

    :param kind: ``"categorical"``, ``"bernoulli"`` or ``"gaussian"``; for a squashed Gaussian, the family of the Gaussian
    :param sizes: number of logits of each choice if there are several choices; ``None``: a single choice
    """

    kind: str
    sizes: tuple[int, ...] | None = None

    def kl(self, old: th.Tensor, new: th.Tensor) -> th.Tensor:
        """Return KL(old‖new), summed over the dimensions of the action, ``[B]``."""
        if self.kind == "categorical":
            return kl_categorical(old, new, self.sizes)
        return kl_bernoulli(old, new) if self.kind == "bernoulli" else kl_gaussian(old, new)

    def fisher(self, parameters: th.Tensor, tangents: th.Tensor) -> th.Tensor:
        """Return the product of each row's Fisher matrix and its tangent, ``[B, K]``."""
        if self.kind == "categorical":
            return fisher_categorical(parameters, tangents, self.sizes)
        return (fisher_bernoulli if self.kind == "bernoulli" else fisher_gaussian)(parameters, tangents)

    def std(self, parameters: th.Tensor) -> th.Tensor | None:
        """Return the standard deviations of Gaussian actions, ``[B, D]``; ``None`` if no action is Gaussian."""
        return parameters.chunk(2, dim=1)[1] if self.kind == "gaussian" else None


@dataclass(frozen=True)
class ProductFamily(Family):
    """
    Products of independent distributions. Their packed parameters are those of the parts, part after part.

    :param kind: ``"product"``
    :param sizes: number of packed parameters of each part
    :param parts: family of each part
    """

    parts: tuple[Family, ...] = ()

    def kl(self, old: th.Tensor, new: th.Tensor) -> th.Tensor:
        """Return KL(old‖new), summed over the parts, ``[B]``."""
        total = old.new_zeros(len(old))
        for part, *parameters in self._by_part(old, new):
            total = total + part.kl(*parameters)
        return total

    def fisher(self, parameters: th.Tensor, tangents: th.Tensor) -> th.Tensor:
        """Return the product of each row's Fisher matrix, which has a block for each part, and its tangent, ``[B, K]``."""
        return th.cat([part.fisher(*blocks) for part, *blocks in self._by_part(parameters, tangents)], dim=1)

    def std(self, parameters: th.Tensor) -> th.Tensor | None:
        """Return the standard deviations of all Gaussian parts, ``[B, D]``; ``None`` if there are none."""
        known = [std for part, x in self._by_part(parameters) if (std := part.std(x)) is not None]
        return th.cat(known, dim=1) if known else None

    def _by_part(self, *parameters: th.Tensor) -> Iterator[tuple[Any, ...]]:
        assert self.sizes is not None
        return zip(self.parts, *(x.split(self.sizes, dim=1) for x in parameters), strict=True)


def family_of(distribution: Distribution) -> Family:
    """
    Return the family of a distribution.

    :param distribution: one of SB3's action distributions, or a product of them
    :raises ValueError: SB3's on-policy algorithms do not use this distribution
    """
    if isinstance(distribution, Product):
        parts = tuple(map(family_of, distribution.parts))
        widths = zip(parts, distribution.n_outputs, strict=True)
        return ProductFamily("product", tuple(2 * n if part.kind == "gaussian" else n for part, n in widths), parts)
    distribution = as_sb3s(distribution)
    if isinstance(distribution, MultiCategoricalDistribution):
        return Family("categorical", tuple(int(n) for n in distribution.action_dims))
    if isinstance(distribution, CategoricalDistribution):
        return Family("categorical")
    if isinstance(distribution, BernoulliDistribution):
        return Family("bernoulli")
    if isinstance(distribution, DiagGaussianDistribution | StateDependentNoiseDistribution):
        return Family("gaussian")
    raise ValueError(f"{type(distribution).__name__} is no distribution that SB3's on-policy algorithms use")


def packed(distribution: Distribution) -> th.Tensor:
    """
    Return the parameters of an action distribution in one tensor: logits, or means followed by standard deviations.

    :param distribution: one of SB3's action distributions, for B states, or a product of them
    :return: ``[B, K]``
    """
    if isinstance(distribution, Product):
        return th.cat([packed(part) for part in distribution.parts], dim=1)
    if isinstance(distribution, Choice):
        return distribution.logits
    inner: Any = distribution.distribution
    if isinstance(distribution, MultiCategoricalDistribution):
        return th.cat([part.logits for part in inner], dim=1)
    return th.cat([inner.mean, inner.stddev], dim=1) if isinstance(inner, Normal) else inner.logits


def noise_source(distribution: Distribution, n: int, device: th.device) -> Callable[[], th.Tensor]:
    """
    Return a function that draws the random numbers that the distribution's own ``sample`` would use for n states, from the
    same generator. Each call overwrites the result of the last one. For gSDE, it returns the current noise matrices.

    :param distribution: one of SB3's action distributions, or a product of them
    :param n: number of states
    :param device: device of the numbers
    """
    if isinstance(distribution, Product):
        sources = [noise_source(part, n, device) for part in distribution.parts]
        return lambda: th.cat([draw() for draw in sources], dim=1)
    distribution = as_sb3s(distribution)
    if isinstance(distribution, StateDependentNoiseDistribution):

        def matrices() -> th.Tensor:
            one = n == 1 or n != len(distribution.exploration_matrices)
            return (distribution.exploration_mat if one else distribution.exploration_matrices).detach()

        return matrices
    if isinstance(distribution, MultiCategoricalDistribution):
        parts = [th.empty(n, int(size), device=device) for size in distribution.action_dims]
        return lambda: th.cat([part.exponential_() for part in parts], dim=1)
    if isinstance(distribution, BernoulliDistribution):
        return th.empty(n, distribution.action_dims, device=device).uniform_
    numbers = th.empty(n, distribution.action_dim, device=device)  # type: ignore[attr-defined]
    return numbers.normal_ if isinstance(distribution, DiagGaussianDistribution) else numbers.exponential_


# Distributions that `sample_with` samples from. A subclass may sample differently.
_SAMPLED = (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    Product,
    StateDependentNoiseDistribution,
)


def samples_from_noise(distribution: Distribution) -> bool:
    """Return whether :func:`sample_with` draws the same actions as the distribution's own ``sample``."""
    return type(as_sb3s(distribution)) in _SAMPLED


def samples_as_sb3(distribution: Distribution) -> bool:
    """Return whether a distribution, which may be of a class of the user's, has a ``sample`` of :func:`samples_from_noise`."""
    return any(type(as_sb3s(distribution)).sample is known.sample for known in _SAMPLED)


def sample_with(distribution: Distribution, noise: th.Tensor) -> th.Tensor:
    """
    Return the actions that the distribution's own ``sample`` would draw from these random numbers, as a pure function.

    :param distribution: one of SB3's action distributions, for B states, or a product of them
    :param noise: random numbers from :func:`noise_source`
    :return: actions, ``[B, ...]``
    """
    if isinstance(distribution, Product):
        blocks = noise.split(distribution.n_outputs, dim=1)
        return joined([sample_with(part, numbers) for part, numbers in zip(distribution.parts, blocks, strict=True)])
    if isinstance(distribution, Choice):
        return (distribution.logits.exp() / noise).argmax(dim=1)
    inner: Any = distribution.distribution
    if isinstance(distribution, StateDependentNoiseDistribution):
        latent = distribution._latent_sde
        shift = latent @ noise if noise.dim() == 2 else (latent.unsqueeze(1) @ noise).squeeze(1)
        actions = inner.mean + shift
        return actions if distribution.bijector is None else distribution.bijector.forward(actions)
    if isinstance(distribution, DiagGaussianDistribution):
        return inner.mean + noise * inner.stddev
    if isinstance(distribution, BernoulliDistribution):
        return (noise < inner.probs).to(inner.probs.dtype)
    if not isinstance(distribution, MultiCategoricalDistribution):
        return largest(inner.probs, noise)
    parts = zip(inner, noise.split([part.probs.shape[1] for part in inner], dim=1), strict=True)
    return th.stack([largest(part.probs, numbers) for part, numbers in parts], dim=1)
