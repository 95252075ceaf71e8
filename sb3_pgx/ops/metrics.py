"""Numbers that describe an update."""

import torch as th
from torch import Tensor


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """
    Return 1 − Var[targets − predictions] / Var[targets], as SB3 defines it: 1 is perfect, 0 as good as a constant, negative
    worse.

    :param predictions: predicted values, ``[B]``
    :param targets: true values, ``[B]``
    :return: scalar, NaN if the targets do not vary
    """
    variance = targets.var(correction=0)
    return th.where(variance > 0, 1.0 - (targets - predictions).var(correction=0) / variance, float("nan"))


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """
    Estimate KL(π_old‖π) from samples of π_old as the mean of (r − 1) − log r. It is unbiased and never negative (k3 of
    Schulman, 2020, "Approximating KL divergence").

    :param log_ratio: log π(a|s) − log π_old(a|s), ``[B]``
    :return: scalar
    """
    return (log_ratio.expm1() - log_ratio).mean()


def clip_fraction(ratio: Tensor, clip_range: float) -> Tensor:
    """
    Return the fraction of ratios outside [1 − ε, 1 + ε].

    :param ratio: r = π(a|s) / π_old(a|s), ``[B]``
    :param clip_range: ε
    :return: scalar
    """
    return ((ratio.detach() - 1).abs() > clip_range).float().mean()


def kl_estimates(log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return three estimates of KL(π_old‖π) from samples of π_old (Schulman, 2020, "Approximating KL divergence").

        k1 = mean of −log r               unbiased, noisy, may be negative
        k2 = mean of ½ (log r)²           biased, less noisy
        k3 = mean of (r − 1) − log r      unbiased, never negative

    :param log_ratio: log r = log π(a|s) − log π_old(a|s), ``[B]``
    :return: k1, k2 and k3, scalars
    """
    return -log_ratio.mean(), 0.5 * log_ratio.square().mean(), approximate_kl(log_ratio)


def effective_sample_size(log_ratio: Tensor) -> Tensor:
    """
    Return (Σ r)² / (B Σ r²), the effective sample size as a fraction of B if each sample of π_old has weight r (Kong, 1992).

    :param log_ratio: log r = log π(a|s) − log π_old(a|s), ``[B]``
    :return: scalar, in [1 / B, 1]
    """
    return (2 * log_ratio.logsumexp(0) - (2 * log_ratio).logsumexp(0)).exp() / len(log_ratio)


def noise_scale(square_small: Tensor, square_big: Tensor, small: int, big: int) -> Tensor:
    """
    Return the simple gradient noise scale B = tr(Σ) / ‖G‖², a number of rows. Gradients over far fewer rows are mostly noise,
    and those over far more rows hardly better (McCandlish et al., 2018, appendix A.1).

        ‖G‖²  = (b_big ‖g_big‖² − b_small ‖g_small‖²) / (b_big − b_small)
        tr(Σ) = (‖g_small‖² − ‖g_big‖²) / (1 / b_small − 1 / b_big)

    :param square_small: ‖g‖² of gradients over ``small`` rows, averaged over several, a scalar
    :param square_big: ‖g‖² of the gradient over ``big`` rows, a scalar
    :param small: rows of a small batch, fewer than ``big``
    :param big: rows of the big batch
    :return: scalar, infinite if noise hides the gradient completely
    """
    signal = (big * square_big - small * square_small) / (big - small)
    noise = (square_small - square_big) / (1 / small - 1 / big)
    return th.where(signal > 0, noise / signal, th.inf)
