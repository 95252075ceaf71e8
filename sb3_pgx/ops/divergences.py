"""
Log-probabilities, entropies and divergences of action distributions, computed from their packed parameters ``[B, K]``: logits,
or means followed by standard deviations.

All divergences are KL(old‖new), summed over the dimensions of an action, as in the definition of a trust region. For each
there is a product of its Fisher matrix M = E_a[∇log π ∇log πᵀ] (one per row) with tangents. M is the Hessian of KL(old‖new) in
``new`` at ``new = old``, and equally that of KL(new‖old) (Kakade, 2001).
"""

import math
from collections.abc import Sequence

import torch as th
from torch import Tensor
from torch.nn import functional as F

LOG_OF_ZERO = -1000.0  # the exponential of this and of all below it is 0, in double precision, too


def log_prob_categorical(log_p: Tensor, actions: Tensor) -> Tensor:
    """
    Return log p(a).

    :param log_p: normalised logits of p, ``[B, K]``
    :param actions: a, ``[B]``
    :return: ``[B]``
    """
    return -F.nll_loss(log_p, actions, reduction="none")


def entropy_categorical(log_p: Tensor) -> Tensor:
    """
    Return the entropy −Σ_a p(a) log p(a).

    :param log_p: normalised logits of p; actions that p excludes (logit −∞) contribute 0, ``[B, K]``
    :return: ``[B]``
    """
    return -(log_p.exp() * log_p.clamp(min=LOG_OF_ZERO)).sum(dim=1)


def kl_categorical(old: Tensor, new: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """
    Return Σ_a p(a) (log p(a) − log q(a)), summed over independent choices.

    :param old: normalised or raw logits of p, ``[B, K]``
    :param new: normalised or raw logits of q, ``[B, K]``
    :param sizes: number of logits per choice; ``None``: a single choice
    :return: ``[B]``
    """
    total = old.new_zeros(len(old))
    for p, q in zip(_choices(old, sizes), _choices(new, sizes), strict=True):
        log_p, log_q = p.log_softmax(dim=1), q.log_softmax(dim=1)
        total = total + _weighted(log_p, log_q).sum(dim=1)
    return total


def fisher_categorical(logits: Tensor, tangents: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """
    Return M t for M = diag(p) − p pᵀ, one block per choice: the Hessian of :func:`kl_categorical` in ``new`` at ``new = old``.

    :param logits: normalised or raw logits of p, ``[B, K]``
    :param tangents: t, ``[B, K]``; entries of actions that p excludes (logit −∞) are ignored
    :param sizes: number of logits per choice; ``None``: a single choice
    :return: ``[B, K]``, 0 where excluded
    """
    products = []
    for logit, t in zip(_choices(logits, sizes), _choices(tangents, sizes), strict=True):
        p = logit.softmax(dim=1)
        t = th.where(p > 0, t, 0.0)
        products.append(p * (t - (p * t).sum(dim=1, keepdim=True)))
    return th.cat(products, dim=1)


def _choices(parameters: Tensor, sizes: Sequence[int] | None) -> Sequence[Tensor]:
    return parameters.split(list(sizes or [parameters.shape[1]]), dim=1)


def _weighted(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return p (log p − log q); actions that p excludes (log p = −∞) contribute 0."""
    return th.where(log_p > -th.inf, log_p.exp() * (log_p - log_q), 0.0)


def kl_bernoulli(old: Tensor, new: Tensor) -> Tensor:
    """
    Return Σ_i [p_i (log p_i − log q_i) + (1 − p_i) (log(1 − p_i) − log(1 − q_i))].

    :param old: logits of p, ``[B, K]``
    :param new: logits of q, ``[B, K]``
    :return: ``[B]``
    """
    total = old.new_zeros(len(old))
    for p, q in ((old, new), (-old, -new)):  # yes, no
        log_p, log_q = F.logsigmoid(p), F.logsigmoid(q)
        total = total + _weighted(log_p, log_q).sum(dim=1)
    return total


def fisher_bernoulli(logits: Tensor, tangents: Tensor) -> Tensor:
    """
    Return M t for M = diag(p (1 − p)): the Hessian of :func:`kl_bernoulli` in ``new`` at ``new = old``.

    :param logits: logits of p, ``[B, K]``
    :param tangents: t, ``[B, K]``; entries where p is 0 or 1 (logit ∓∞) are ignored
    :return: ``[B, K]``
    """
    variance = logits.sigmoid() * (-logits).sigmoid()  # 1 − p would round to 0 if p is nearly 1
    return th.where(variance > 0, variance * tangents, 0.0)


def kl_gaussian(old: Tensor, new: Tensor) -> Tensor:
    """
    Return Σ_i [log(σ'_i / σ_i) + (σ_i² + (μ_i − μ'_i)²) / (2 σ'_i²) − ½], where primes mark the new distribution.

    The divergence is invariant: it stays the same if both distributions pass through the same squashing function.

    :param old: means, then standard deviations, of the old distribution, ``[B, 2 D]``
    :param new: means, then standard deviations, of the new distribution, ``[B, 2 D]``
    :return: ``[B]``
    """
    (mean, std), (new_mean, new_std) = old.chunk(2, dim=1), new.chunk(2, dim=1)
    ratio = (std / new_std).square()
    return 0.5 * (ratio + ((mean - new_mean) / new_std).square() - 1 - ratio.log()).sum(dim=1)


def fisher_gaussian(parameters: Tensor, tangents: Tensor) -> Tensor:
    """
    Return M t for M = diag(1/σ², 2/σ²): the Hessian of :func:`kl_gaussian` in ``new`` at ``new = old``.

    :param parameters: means, then standard deviations, ``[B, 2 D]``
    :param tangents: t, in the same order, ``[B, 2 D]``
    :return: ``[B, 2 D]``
    """
    _, std = parameters.chunk(2, dim=1)
    mean_tangents, std_tangents = tangents.chunk(2, dim=1)
    return th.cat([mean_tangents, 2 * std_tangents], dim=1) / std.square().repeat(1, 2)


def log_prob_gaussian(parameters: Tensor, actions: Tensor) -> Tensor:
    """
    Return log N(a; μ, σ) = −Σ_i [(a_i − μ_i)² / (2 σ_i²) + log σ_i + ½ log 2π].

    :param parameters: means, then standard deviations, ``[B, 2 D]``
    :param actions: a, ``[..., B, D]``
    :return: ``[..., B]``
    """
    mean, std = parameters.chunk(2, dim=-1)
    return -(0.5 * ((actions - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(dim=-1)
