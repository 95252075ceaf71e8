"""Losses as pure functions of what the policy returned and a batch."""

import torch as th
from torch import Tensor


def score_function(log_prob: Tensor, signal: Tensor, weights: Tensor) -> Tensor:
    """
    −Σ_b w_b Ψ_b log π(a_b|s_b), whose gradient is minus the policy-gradient estimate (Williams, 1992; Sutton et al., 2000).

    With w = γ^t / E over all steps of E whole episodes, and Ψ = G_t − b, it estimates −∇J.

    :param log_prob: log π(a_b|s_b), ``[B]``
    :param signal: Ψ_b, a constant, ``[B]``
    :param weights: w_b, a constant, ``[B]``
    :return: scalar
    """
    return -(weights * signal.detach() * log_prob).sum()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """
    min(r A, clip(r, 1 − ε, 1 + ε) A) = min(r A, A + ε |A|), to be maximised (Schulman et al., 2017, eq. 7).

    Its gradient is that of r A where the clip is not active, and 0 where r has already moved beyond it in the direction
    that A asks for.

    :param ratio: r = π(a|s) / π_old(a|s), ``[B]``
    :param advantages: A, a constant, ``[B]``
    :param clip_range: ε
    :return: ``[B]``
    """
    return (ratio * advantages).clamp(max=advantages + clip_range * advantages.abs())


def kl_hinge(kl: Tensor, target_kl: float) -> Tensor:
    """
    max(0, KL − 2 target)², which punishes a policy that has moved far too far (Heess et al., 2017).

    :param kl: mean KL(π_old‖π) of a minibatch, scalar
    :param target_kl: the target
    :return: scalar
    """
    return (kl - 2 * target_kl).clamp(min=0).square()


def standardized(advantages: Tensor) -> Tensor:
    """
    (A − mean A) / (std A + 1e-8) over a batch, as SB3 standardises them, with the unbiased standard deviation.

    :param advantages: A, ``[B]``, B > 1
    :return: ``[B]``
    """
    std, mean = th.std_mean(advantages)
    return (advantages - mean) / (std + 1e-8)


def weighted(coefficient: Tensor | float, term: Tensor) -> Tensor | float:
    """
    A term of a sum; one whose coefficient is the number 0 is left out, so that no gradient is computed for nothing.

    :param coefficient: a number, or a scalar tensor
    :param term: what it weighs
    :return: their product, or 0
    """
    return 0.0 if not isinstance(coefficient, Tensor) and coefficient == 0 else coefficient * term
