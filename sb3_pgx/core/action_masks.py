"""Action masks: which actions are valid in a state, and distributions in which all others have the probability 0."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import Tensor

from sb3_pgx.core.distributions import Choice, masked_logits
from sb3_pgx.core.mixed_spaces import is_mixed, parts_of
from sb3_pgx.core.product import Product


def mask_parts(space: spaces.Space) -> list[int]:
    """
    Return the number of options of each independent choice of a space; an empty list if it has no choices. A mask has one
    entry per option, choice after choice; a switch of ``MultiBinary`` has two, off and on, as in sb3-contrib.

    :param space: action space; of a ``Dict`` or ``Tuple``, the choices of all parts in their order
    """
    if is_mixed(space):
        return [n for part in parts_of(space).values() for n in mask_parts(part)]
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec]
    return [2] * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else []


def mask_size(space: spaces.Space) -> int:
    """Return M, the number of entries of a mask."""
    return sum(mask_parts(space))


def first_options(space: spaces.Space) -> np.ndarray:
    """Return where the options of each choice begin in a mask."""
    return np.cumsum([0, *mask_parts(space)[:-1]])


def without_option(masks: np.ndarray, starts: np.ndarray) -> np.ndarray | None:
    """
    Return which rows leave a choice without a valid option, ``[N]``; ``None`` if there are none.

    :param masks: ``[N, M]``
    :param starts: of :func:`first_options`
    """
    has_option = np.logical_or.reduceat(masks, starts, axis=1)
    return None if has_option.all() else np.asarray(~has_option.all(axis=1))


class MaskedChoices(MultiCategoricalDistribution):
    """
    SB3's distribution of several choices, with masks.

    :param action_dims: number of options of each choice
    :param masks: which options are valid, ``[B, M]``
    """

    def __init__(self, action_dims: list[int], masks: Tensor):
        super().__init__(action_dims)
        self.masks = masks

    def proba_distribution(self, action_logits: Tensor) -> "MaskedChoices":
        """Set the logits, ``[B, M]``, which are masked here."""
        return super().proba_distribution(masked_logits(action_logits, self.masks))


class MaskedSwitches(BernoulliDistribution):
    """
    SB3's distribution of switches, with masks.

    :param action_dims: n, number of switches
    :param masks: whether off and on are valid, for each switch, ``[B, 2 n]``
    """

    def __init__(self, action_dims: int, masks: Tensor):
        super().__init__(action_dims)
        self.off, self.on = masks.unflatten(1, (action_dims, 2)).unbind(dim=2)

    def proba_distribution(self, action_logits: Tensor) -> "MaskedSwitches":
        """Set the logits of on, ``[B, n]``, which are masked here."""
        only_off_or_free = masked_logits(action_logits, self.on)
        return super().proba_distribution(-masked_logits(-only_off_or_free, self.off))


class MaskedProduct(Product):
    """
    A distribution of mixed actions, with masks for its choices.

    :param product: the same without masks
    :param masks: which options are valid, of all parts in their order, ``[B, M]``
    """

    def __init__(self, product: Product, masks: Tensor):
        vars(self).update(vars(product))
        widths = [_mask_width(part) for part in product.parts]
        of_parts = zip(product.parts, masks.split(widths, dim=1), strict=True)
        self.parts = [masked(part, mask) if mask.shape[1] else part for part, mask in of_parts]


def _mask_width(part: Any) -> int:
    if isinstance(part, MultiCategoricalDistribution):
        return int(sum(part.action_dims))
    if isinstance(part, BernoulliDistribution):
        return 2 * int(part.action_dims)
    return int(part.action_dim) if isinstance(part, CategoricalDistribution) else 0


def masked(distribution: Distribution, masks: Tensor) -> Distribution:
    """
    Return a distribution of the same kind that gives invalid actions the probability 0.

    :param distribution: one of SB3's, of Discrete, MultiDiscrete or MultiBinary actions, or a product with such parts
    :param masks: which actions are valid, ``[B, M]``
    """
    if isinstance(distribution, Product):
        return MaskedProduct(distribution, masks)
    if isinstance(distribution, MultiCategoricalDistribution):
        return MaskedChoices(distribution.action_dims, masks)
    if isinstance(distribution, BernoulliDistribution):
        return MaskedSwitches(distribution.action_dims, masks)
    assert isinstance(distribution, CategoricalDistribution)
    return Choice(distribution.action_dim, masks)
