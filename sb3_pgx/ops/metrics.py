"""Numbers that describe an update."""

import torch as th
from torch import Tensor


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """
    1 − Var[targets − predictions] / Var[targets], as SB3 defines it: 1 perfect, 0 as good as a constant, negative worse.

    :param predictions: ``[B]``
    :param targets: ``[B]``
    :return: scalar, NaN if the targets do not vary
    """
    variance = targets.var(correction=0)
    return th.where(variance > 0, 1.0 - (targets - predictions).var(correction=0) / variance, float("nan"))


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """
    Estimate of KL(π_old‖π) from samples of π_old: the mean of (r − 1) − log r, never negative and unbiased (Schulman, 2020,
    "Approximating KL divergence", k3).

    :param log_ratio: log π(a|s) − log π_old(a|s), ``[B]``
    :return: scalar
    """
    return (log_ratio.expm1() - log_ratio).mean()


def clip_fraction(ratio: Tensor, clip_range: float) -> Tensor:
    """
    Share of the ratios outside [1 − ε, 1 + ε].

    :param ratio: r = π(a|s) / π_old(a|s), ``[B]``
    :param clip_range: ε
    :return: scalar
    """
    return ((ratio.detach() - 1).abs() > clip_range).float().mean()
