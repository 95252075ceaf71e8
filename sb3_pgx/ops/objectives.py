"""Losses, and parts of losses, as pure functions of tensors."""

import torch as th
from torch import Tensor


def score_function(log_prob: Tensor, signal: Tensor, weights: Tensor) -> Tensor:
    """
    Return −Σ_b w_b Ψ_b log π(a_b|s_b), whose gradient is minus the policy-gradient estimate (Williams, 1992; Sutton et al.,
    2000).

    With w = γ^t / E over all steps of E whole episodes, and Ψ = G_t − b, it estimates −∇J.

    :param log_prob: log π(a_b|s_b), ``[B]``
    :param signal: Ψ_b, a constant, ``[B]``
    :param weights: w_b, a constant, ``[B]``
    :return: scalar
    """
    return -(weights * signal.detach() * log_prob).sum()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """
    Return min(r A, clip(r, 1 − ε, 1 + ε) A) = min(r A, A + ε |A|), to be maximised (Schulman et al., 2017, eq. 7).

    Its gradient is 0 where r is already beyond the clip in the direction that A favours, and that of r A elsewhere. That
    includes the clip itself, where torch's ``clamp`` and ``minimum`` differ between versions.

    :param ratio: r = π(a|s) / π_old(a|s), ``[B]``
    :param advantages: A, a constant, ``[B]``
    :param clip_range: ε
    :return: ``[B]``
    """
    gain, limit = ratio * advantages, advantages + clip_range * advantages.abs()
    return th.where(gain > limit, limit, gain)


def clipped(change: Tensor, bound: Tensor | float) -> Tensor:
    """
    Return a change clipped to ±bound. Its gradient is 1 where |change| ≤ bound and 0 elsewhere. At the bound itself, that of
    torch's ``clamp`` differs between versions, and between bounds that are numbers and tensors.

    :param change: ``[B]``
    :param bound: at least 0
    """
    return th.where(change.abs() > bound, bound * change.sign(), change)


def kl_hinge(kl: Tensor, target_kl: float) -> Tensor:
    """
    Return max(0, KL − 2 target)², a penalty on large policy changes (Heess et al., 2017).

    :param kl: mean KL(π_old‖π) of a minibatch, scalar
    :param target_kl: target divergence
    :return: scalar
    """
    return (kl - 2 * target_kl).clamp(min=0).square()


def standardized(advantages: Tensor) -> Tensor:
    """
    Return (A − mean A) / (std A + 1e-8) over a batch, with the unbiased standard deviation, as SB3 does.

    :param advantages: A, ``[B]``, B > 1
    :return: ``[B]``
    """
    std, mean = th.std_mean(advantages)
    return (advantages - mean) / (std + 1e-8)


def weighted(coefficient: Tensor | float, term: Tensor) -> Tensor | float:
    """
    Return a weighted term of a loss. If the coefficient is the number 0, the term is left out, to save its gradient.

    :param coefficient: a number, or a scalar tensor
    :param term: term to weight
    :return: the product, or the number 0
    """
    return 0.0 if not isinstance(coefficient, Tensor) and coefficient == 0 else coefficient * term


def sum_of(first: Tensor, *terms: Tensor | float) -> Tensor:
    """
    Return the sum of terms, without an operation for those that :func:`weighted` left out.

    :param first: first term
    :param terms: from :func:`weighted`: tensors, or the number 0
    """
    for term in terms:
        if isinstance(term, Tensor):
            first = first + term
    return first
