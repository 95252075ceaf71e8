"""The distribution of a mixed action: independent distributions of its parts, over one row of numbers."""

from collections.abc import Sequence
from copy import copy
from functools import reduce
from operator import add
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    make_proba_distribution,
)
from torch import Tensor, nn

from sb3_pgx.core.mixed_spaces import action_dims, parts_of


class Product(Distribution):
    """
    A product of SB3's distributions, one for each part of a mixed action space. log π and the entropy are sums over the parts.

    Actions are rows of numbers, ``[B, action_dim]`` (:mod:`~sb3_pgx.core.mixed_spaces`). ``parts`` are the distributions;
    setting the parameters replaces them, so that a list of earlier ones stays valid.

    :param space: mixed action space
    """

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.parts: list[Distribution] = [make_proba_distribution(part) for part in parts_of(space).values()]
        self.action_dims = action_dims(space)
        self.n_outputs = tuple(map(_n_outputs, self.parts))  # of the network, by part: means or logits
        self.n_gaussian = tuple(d for d, part in zip(self.action_dims, self.parts, strict=True) if _is_gaussian(part))

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        Return the linear layer that computes the means and logits of all parts.

        :param latent_dim: size of the last hidden layer
        """
        return nn.Linear(latent_dim, sum(self.n_outputs))

    def proba_distribution(self, outputs: Tensor, log_std: Tensor | None = None) -> "Product":
        """
        Set the parameters.

        :param outputs: means and logits, part after part, ``[B, sum(n_outputs)]``
        :param log_std: log σ of the numbers of all Box parts, ``[D]`` or ``[B, D]``; ``None`` if there is no such part
        :return: itself
        """
        # A single part takes the outputs themselves: a split changes the layout of derivatives, and with it their rounding.
        by_part = outputs.split(self.n_outputs, dim=1) if len(self.parts) > 1 else [outputs]
        stds = iter(() if log_std is None else log_std.split(self.n_gaussian, dim=-1))
        self.parts = [
            copy(part).proba_distribution(x, next(stds)) if _is_gaussian(part) else copy(part).proba_distribution(x)
            for part, x in zip(self.parts, by_part, strict=True)
        ]
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """
        Return log π(a), ``[B]``.

        :param actions: a, ``[B, action_dim]``
        """
        columns = zip(self.parts, actions.split(self.action_dims, dim=1), strict=True)
        return reduce(add, (part.log_prob(x.squeeze(1) if _is_choice(part) else x) for part, x in columns))

    def entropy(self) -> Tensor:
        """Return the entropy, ``[B]``."""
        return reduce(add, (part.entropy() for part in self.parts))  # type: ignore[return-value]  # each has a closed form

    def sample(self) -> Tensor:
        """Draw actions, ``[B, action_dim]``, part after part."""
        return joined([part.sample() for part in self.parts])

    def mode(self) -> Tensor:
        """Return the most probable actions, ``[B, action_dim]``."""
        return joined([part.mode() for part in self.parts])

    def actions_from_params(self, outputs: Tensor, log_std: Tensor | None = None, deterministic: bool = False) -> Tensor:
        """Set the parameters as :meth:`proba_distribution` does, and return actions, ``[B, action_dim]``."""
        return self.proba_distribution(outputs, log_std).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, outputs: Tensor, log_std: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Set the parameters as :meth:`proba_distribution` does, and return sampled actions and their log π."""
        actions = self.actions_from_params(outputs, log_std)
        return actions, self.log_prob(actions)


def joined(actions: Sequence[Tensor]) -> Tensor:
    """
    Join the actions of all parts to rows of numbers, ``[B, action_dim]``.

    :param actions: actions of each part, ``[B]`` or ``[B, dim]``
    """
    rows = [x if x.is_floating_point() else x.float() for x in actions]
    return th.cat([x[:, None] if x.dim() == 1 else x for x in rows], dim=1)


def _is_gaussian(part: Distribution) -> bool:
    return isinstance(part, DiagGaussianDistribution)


def _is_choice(part: Distribution) -> bool:
    return isinstance(part, CategoricalDistribution)


def _n_outputs(part: Any) -> int:
    if isinstance(part, MultiCategoricalDistribution):
        return int(sum(part.action_dims))
    return int(part.action_dims if isinstance(part, BernoulliDistribution) else part.action_dim)
