"""
Divergences from the packed parameters of action distributions, ``[B, K]``: logits, or means followed by standard deviations.

All are KL(old‖new), summed over the dimensions of an action: the direction and the sum that trust regions are stated in.
"""

from collections.abc import Sequence

import torch as th
from torch import Tensor
from torch.nn import functional as F


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
        total = total + _weighted(log_p, log_q).sum(dim=1)
    return total


def _weighted(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p (log p − log q); what p excludes (log p = −∞) contributes nothing."""
    return th.where(log_p > -th.inf, log_p.exp() * (log_p - log_q), 0.0)


def kl_bernoulli(old: Tensor, new: Tensor) -> Tensor:
    """
    Σ_i [p_i (log p_i − log q_i) + (1 − p_i) (log(1 − p_i) − log(1 − q_i))].

    :param old: logits of p, ``[B, K]``
    :param new: of q, ``[B, K]``
    :return: ``[B]``
    """
    total = old.new_zeros(len(old))
    for p, q in ((old, new), (-old, -new)):  # yes, no
        log_p, log_q = F.logsigmoid(p), F.logsigmoid(q)
        total = total + _weighted(log_p, log_q).sum(dim=1)
    return total


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
