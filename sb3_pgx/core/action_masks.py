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

from sb3_pgx.core.distributions import masked_logits
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


def first_option_masks(space: spaces.Space, n: int) -> np.ndarray:
    """Return masks that leave each choice its first option alone, ``[n, M]``."""
    masks = np.zeros((n, mask_size(space)), bool)
    masks[:, first_options(space)] = True
    return masks


def without_option(masks: np.ndarray, starts: np.ndarray) -> np.ndarray | None:
    """
    Return which rows leave a choice without a valid option, ``[N]``; ``None`` if there are none.

    :param masks: ``[N, M]``
    :param starts: of :func:`first_options`
    """
    has_option = np.logical_or.reduceat(masks, starts, axis=1)
    return None if has_option.all() else np.logical_not(has_option.all(axis=1))


class Masked:
    """Base of the masked distributions, whose masks are set before the logits."""

    def apply_masking(self, masks: Any) -> None:
        """Do nothing: overridden methods of sb3-contrib's policies apply masks that are applied already."""


class MaskedChoice(Masked, CategoricalDistribution):
    """
    SB3's distribution of one choice, with masks.

    :param action_dim: number of options
    :param masks: which options are valid, ``[B, K]``
    """

    def __init__(self, action_dim: int, masks: Tensor):
        super().__init__(action_dim)
        self.masks = masks

    def proba_distribution(self, action_logits: Tensor) -> "MaskedChoice":
        """Set the logits, ``[B, K]``, which are masked here."""
        return super().proba_distribution(masked_logits(action_logits, self.masks))


class MaskedChoices(Masked, MultiCategoricalDistribution):
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


class MaskedSwitches(Masked, BernoulliDistribution):
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


class MaskedProduct(Masked, Product):
    """
    A distribution of mixed actions, with masks for its choices.

    :param product: the product distribution without masks
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
    :raises ValueError: a distribution of another class, which may compute something else
    """
    kind = type(distribution)
    if kind is Product:
        return MaskedProduct(distribution, masks)  # type: ignore[arg-type]
    if kind is CategoricalDistribution:
        return MaskedChoice(distribution.action_dim, masks)  # type: ignore[attr-defined]
    if kind is MultiCategoricalDistribution:
        return MaskedChoices(distribution.action_dims, masks)  # type: ignore[attr-defined]
    if kind is BernoulliDistribution:
        return MaskedSwitches(distribution.action_dims, masks)  # type: ignore[attr-defined]
    raise ValueError(
        f"the environments mask actions, but the distribution {kind.__name__} cannot be masked, only SB3's own: give the "
        "policy one of them as action_dist, or pass learn(use_masking=False)"
    )
