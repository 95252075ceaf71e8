"""Policies in proportion to exp(Q/α): the soft value of their energy, and directions that lead samples to them."""

import math
from collections.abc import Sequence

import torch as th
from torch import Tensor
from torch.nn import functional as F

SMALLEST_BANDWIDTH = 1e-8  # of the kernel: particles that all are at one point have none


def soft_value(values: Tensor, temperature: float | Tensor) -> Tensor:
    """
    Return the soft value of a finite number of actions (Haarnoja et al., 2017, eq. 3): α log Σ_a exp(Q(s, a) / α).

    It tends to the maximum as α falls, and exceeds it by at most α log A.

    :param values: Q(s, a) of all actions, ``[B, A]``
    :param temperature: α > 0
    :return: ``[B, 1]``
    """
    return temperature * (values / temperature).logsumexp(dim=1, keepdim=True)


def sampled_soft_value(values: Tensor, log_densities: float | Tensor, temperature: float | Tensor) -> Tensor:
    """
    Estimate the soft value α log ∫ exp(Q(s, a) / α) da by importance sampling (Haarnoja et al., 2017, eq. 10).

        V(s) ≈ α log (1/K Σ_k exp(Q(s, a_k) / α) / q(a_k)),   a_k ~ q

    The mean inside of the logarithm is unbiased, so the value is too small on average, by a bias that falls as 1/K.

    :param values: Q(s, a_k), ``[B, K]``
    :param log_densities: log q(a_k), ``[B, K]``, or one number if q is uniform
    :param temperature: α > 0
    :return: ``[B, 1]``
    """
    return temperature * ((values / temperature - log_densities).logsumexp(dim=1, keepdim=True) - math.log(values.shape[1]))


def effective_samples(values: Tensor, temperature: float | Tensor) -> Tensor:
    """
    Return the effective number of equally likely samples in a soft value, (Σ_k w_k)² / Σ_k w_k² with w_k = exp(Q(s, a_k) / α)
    (Kong, 1992): K if all weigh the same, 1 if one of them has all of the weight.

    :param values: Q(s, a_k), ``[B, K]``
    :param temperature: α > 0
    :return: ``[B]``
    """
    weights = values / temperature
    return (2 * weights.logsumexp(dim=1) - (2 * weights).logsumexp(dim=1)).exp()


def log_tanh_slope(x: Tensor) -> Tensor:
    """
    Return log (1 − tanh² x), the logarithm of the derivative of tanh, without overflow.

    :param x: any shape
    """
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def stein_direction(
    particles: Tensor, scores: Tensor, points: Tensor, slopes: float | Tensor = 1.0, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """
    Return the direction of Stein variational gradient descent (Liu & Wang, 2016, eq. 8): of all directions of unit length in
    the kernel's function space, that in which the particles' distribution comes nearest to p in KL divergence.

        φ(x) = 1/I Σ_i κ(x_i, x) ∇ log p(x_i) + ∇_{x_i} κ(x_i, x)
        κ(x_i, x) = Σ_c exp(−|x_i − x|² / (c h)),   h = median |x_i − x|² / log(I + 1)

    The median is that of each row. Where the points are independent of the particles, as in Haarnoja et al. (2017), the mean
    of φ is 0 if the particles have the distribution p.

    Scores, directions and gradients may be those in other coordinates u_i, component by component, while the kernel compares
    the x_i: for squashed actions x = tanh u, log p is then that of u, which has no boundaries.

    :param particles: x_i, ``[B, I, D]``
    :param scores: ∇ log p at x_i, ``[B, I, D]``
    :param points: x, where the direction is wanted, ``[B, J, D]``
    :param slopes: dx_i/du_i, ``[B, I, D]``; 1 if scores are with respect to x
    :param scales: c, bandwidths as multiples of h; their kernels are added
    :return: φ(x), ``[B, J, D]``
    """
    apart = points[:, None] - particles[:, :, None]  # [B, I, J, D]
    squares = apart.square().sum(dim=-1)
    ordered = squares.flatten(1).sort(dim=1).values  # Inductor has no kernel for the median itself
    median = ordered[:, (ordered.shape[1] - 1) // 2, None, None]
    bandwidth = (median / math.log(particles.shape[1] + 1)).clamp(min=SMALLEST_BANDWIDTH)
    kernel, slope = th.zeros_like(squares), th.zeros_like(squares)
    for scale in scales:
        term = (-squares / (scale * bandwidth)).exp()
        kernel, slope = kernel + term, slope + term * (2 / (scale * bandwidth))
    repulsion = slope[..., None] * apart * (slopes[:, :, None] if isinstance(slopes, Tensor) else slopes)
    return (kernel.transpose(1, 2) @ scores + repulsion.sum(dim=1)) / particles.shape[1]
