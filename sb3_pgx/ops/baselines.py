"""
Baselines computed from a batch of whole episodes. Subtracted from the returns, they reduce the variance of the gradient.

Tensors are ``[L, E]``: row t holds step t of each of the E episodes, ``valid`` is false after an episode's end. All
baselines here are one formula, a weighted mean over the episodes that are alive at the same step,

    b_t = Σ_j w_jt G_jt / Σ_j w_jt

and differ in the weights (1, or the squared norm of the score) and in whether the sum over j includes episode i itself.

Let ĝ = (1/E) Σ_i Σ_t ∇log π(a_it|s_it) (G_it − b_it) be the estimate and g = E[Σ_t ∇log π(a_t|s_t) G_t] its target:

==================  ================================================================================================
no baseline         E[ĝ] = g
``mean_baseline``   biased: step t counts (1 − 1/n_t) of its weight, where n_t episodes are alive at t. With E episodes
                    of equal length E[ĝ] = (1 − 1/E) g: the right direction, a shorter step
``leave_one_out``   E[ĝ] = g: the baseline of episode i is made from the other episodes alone
==================  ================================================================================================

With squared-score weights the leave-one-out baseline estimates the variance-optimal one,
b_t* = E[‖∇log π_t‖² G_t] / E[‖∇log π_t‖²] (Greensmith et al., 2004; Peters & Schaal, 2008, eq. 14): among
all baselines that depend only on t, it minimises the variance of step t's term (in one-step problems, the variance of ĝ). It
ignores the covariance between terms of different steps. With one weight per parameter, each parameter gets its own b*.
"""

import torch as th
from torch import Tensor

from sb3_pgx.ops.returns import masked


def mean_baseline(returns: Tensor, valid: Tensor) -> Tensor:
    """
    Return the mean return over the episodes alive at each step, including the episode itself.

    :param returns: G_it, ``[L, E]``
    :param valid: true for steps that the episode has, ``[L, E]``
    :return: b_it, ``[L, E]``, 0 where not valid
    """
    alive = valid.sum(dim=1, keepdim=True).clamp(min=1)
    mean = masked(returns, valid).sum(dim=1, keepdim=True) / alive
    return masked(mean.expand_as(returns), valid)


def leave_one_out(returns: Tensor, valid: Tensor, weights: Tensor | None = None, fallback: Tensor | None = None) -> Tensor:
    """
    Return the weighted mean return over the *other* episodes alive at each step (Kool et al., 2019, for equal weights).

    If no other episode is alive, or all their weights are 0, the result is ``fallback``. It does not depend on episode i
    either, so the estimate stays unbiased.

    :param returns: G_it, ``[L, E]``
    :param valid: true for steps that the episode has, ``[L, E]``
    :param weights: w_it ≥ 0, for example ‖∇log π(a_it|s_it)‖²: ``[L, E]``, or ``[L, E, P]`` for one baseline per
        parameter; ``None``: all 1
    :param fallback: baseline of each episode if no other one is alive, ``[E]``; ``None``: :func:`mean_of_others`
    :return: b_it, shaped as ``weights`` (or as ``returns``), 0 where not valid
    :raises ValueError: fewer than two episodes
    """
    if returns.shape[1] < 2:
        raise ValueError("a leave-one-out baseline needs at least two episodes per update")
    fallback = mean_of_others(returns, valid) if fallback is None else fallback
    weights = th.ones_like(returns) if weights is None else weights
    trailing = (1,) * (weights.dim() - returns.dim())
    returns, valid, fallback = (x.reshape(*x.shape, *trailing) for x in (returns, valid, fallback))
    weights = masked(weights, valid)
    # Not "total minus own": with one dominant weight, that difference would be rounding noise.
    weighted_sum, weight_sum = others(weights * masked(returns, valid), dim=1), others(weights, dim=1)
    known = weight_sum > 0
    baseline = th.where(known, weighted_sum / th.where(known, weight_sum, th.ones_like(weight_sum)), fallback)
    return masked(baseline, valid)


def mean_of_others(returns: Tensor, valid: Tensor) -> Tensor:
    """
    Return the mean return over all steps of all other episodes, for each episode.

    :param returns: G_it, ``[L, E]``
    :param valid: true for steps that the episode has, ``[L, E]``
    :return: ``[E]``
    """
    return others(masked(returns, valid).sum(dim=0)) / others(valid.sum(dim=0)).clamp(min=1)


def others(values: Tensor, dim: int = 0) -> Tensor:
    """
    Sum all *other* entries along a dimension, for each entry: those before it plus those after it.

    :param values: any shape
    :param dim: dimension to sum over
    :return: shaped as ``values``
    """
    rest, edge = values.shape[dim] - 1, th.zeros_like(values.narrow(dim, 0, 1))
    before = th.cat([edge, values.cumsum(dim).narrow(dim, 0, rest)], dim)
    after = th.cat([values.flip(dim).cumsum(dim).flip(dim).narrow(dim, 1, rest), edge], dim)
    return before + after
