"""
Divergences from the packed parameters of action distributions, ``[B, K]``: logits, or means followed by standard deviations.

All are KL(old‖new), summed over the dimensions of an action: the direction and the sum that trust regions are stated in.
"""

from collections.abc import Sequence

import torch as th
from torch import Tensor


def kl_categorical(old: Tensor, new: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """
    Σ_a p(a) (log p(a) − log q(a)), summed over independent choices.

    :param old: normalised or raw logits of p, ``[B, K]``
    :param new: of q, ``[B, K]``
    :param sizes: how many logits belong to each choice; ``None``: all to one
    :return: ``[B]``
    """
    total = old.new_zeros(len(old))
    for p, q in zip(
        old.split(list(sizes or [old.shape[1]]), dim=1), new.split(list(sizes or [new.shape[1]]), dim=1), strict=True
    ):
        log_p, log_q = p.log_softmax(dim=1), q.log_softmax(dim=1)
        # A choice that the old policy excludes (a logit of −∞) contributes nothing.
        total = total + th.where(log_p > -th.inf, log_p.exp() * (log_p - log_q), 0.0).sum(dim=1)
    return total


def kl_bernoulli(old: Tensor, new: Tensor) -> Tensor:
    """
    Σ_i [p_i (log p_i − log q_i) + (1 − p_i) (log(1 − p_i) − log(1 − q_i))].

    :param old: logits of p, ``[B, K]``
    :param new: of q, ``[B, K]``
    :return: ``[B]``
    """
    p = old.sigmoid()
    log = th.nn.functional.logsigmoid
    return (p * (log(old) - log(new)) + (1 - p) * (log(-old) - log(-new))).sum(dim=1)


def kl_gaussian(old: Tensor, new: Tensor) -> Tensor:
    """
    Σ_i [log(σ'_i / σ_i) + (σ_i² + (μ_i − μ'_i)²) / (2 σ'_i²) − ½], primes for the new one.

    A squashing function that both go through changes nothing: the divergence is invariant.

    :param old: means, then standard deviations, ``[B, 2 D]``
    :param new: likewise
    :return: ``[B]``
    """
    (mean, std), (new_mean, new_std) = old.chunk(2, dim=1), new.chunk(2, dim=1)
    ratio = (std / new_std).square()
    return 0.5 * (ratio + ((mean - new_mean) / new_std).square() - 1 - ratio.log()).sum(dim=1)
