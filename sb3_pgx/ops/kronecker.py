"""
Kronecker-factored curvature (K-FAC): the Fisher matrix of a layer as a product of two small matrices.

A linear layer computes s = X ā, where ā is its input a with a 1 behind it, and X = [W b], ``[m, n]``. The gradient of log p in
X is g āᵀ with g = ∇_s log p. Treating g and ā as independent makes the Fisher matrix of the layer the Kronecker product of

    A = E[ā āᵀ]  [n, n]   and   G = E[g gᵀ]  [m, m]

Then F⁻¹ times a gradient D ``[m, n]`` is G⁻¹ D A⁻¹, and the quadratic form of a change D of X is tr(Dᵀ G D A) (Martens &
Grosse, 2015, §3). A convolution does the same at T places, whose inputs ā_t are patches of the image (Grosse & Martens, 2016,
§3):

    A = E[Σ_t ā_t ā_tᵀ]   and   G = E[Σ_t g_t g_tᵀ] / T
"""

import math

import torch as th
from torch import Tensor
from torch.nn import functional as F


def with_ones(inputs: Tensor) -> Tensor:
    """
    Return ā: the inputs with a 1 behind each row, which stands for the bias.

    :param inputs: a, ``[..., n]``
    :return: ``[..., n + 1]``
    """
    return th.cat([inputs, inputs.new_ones((*inputs.shape[:-1], 1))], dim=-1)


def patches(
    images: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """
    Return what a convolution multiplies with its weights at each place of its output.

    :param images: inputs of the convolution, ``[B, C, H, W]``
    :param kernel_size: height and width of the kernel
    :param stride: distances of two places
    :param padding: zeros added at each side
    :param dilation: distances of two entries of the kernel
    :return: one patch per place, in the order of the weights ``[m, C, *kernel_size]``, ``[B, T, C * kernel]``
    """
    return F.unfold(images, kernel_size, dilation, padding, stride).transpose(1, 2)


def input_factor(inputs: Tensor) -> Tensor:
    """
    Return A, the second moment of the inputs, summed over the places of a convolution.

    :param inputs: ā, ``[B, n]``, or ``[B, T, n]`` for a convolution
    :return: ``[n, n]``
    """
    rows = inputs.flatten(end_dim=-2)
    return rows.T @ rows / len(inputs)


def output_factor(gradients: Tensor) -> Tensor:
    """
    Return G, the second moment of the gradients, averaged over the places of a convolution.

    :param gradients: g of each sample, ``[B, m]``, or ``[B, T, m]`` for a convolution
    :return: ``[m, m]``
    """
    rows = gradients.flatten(end_dim=-2)
    return rows.T @ rows / len(rows)


def average_weight(k: int, decay: float) -> float:
    """
    Return the weight of the k-th observation in a running average: the mean until the average forgets (Martens & Grosse, 2015,
    §5).

    :param k: 1 for the first observation
    :param decay: weight of the average so far, later on
    """
    return max(1 / k, 1 - decay)


def damped_factors(A: Tensor, G: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """
    Return A + π √λ I and G + √λ / π I, whose product replaces F + λI (factored Tikhonov damping; Martens & Grosse, 2015,
    §6.3). π² = (tr A / n) / (tr G / m) keeps the two errors alike; if one of the factors is 0, π = 1.

    :param A: ``[n, n]``
    :param G: ``[m, m]``
    :param damping: λ > 0
    """
    size_A, size_G = A.diagonal().mean(), G.diagonal().mean()
    pi = th.where((size_A > 0) & (size_G > 0), size_A / size_G, 1.0).sqrt()
    root = math.sqrt(damping)
    return A + th.diag_embed((pi * root).expand(len(A))), G + th.diag_embed((root / pi).expand(len(G)))


def inverse(matrix: Tensor) -> Tensor:
    """
    Return the inverse of a symmetric, positive definite matrix, by Cholesky decomposition in double precision.

    :param matrix: ``[n, n]``
    :raises torch.linalg.LinAlgError: it is not positive definite, or not finite
    """
    return th.cholesky_inverse(th.linalg.cholesky(matrix.double())).to(matrix.dtype)


def quadratic_form(D: Tensor, A: Tensor, G: Tensor) -> Tensor:
    """
    Return tr(Dᵀ G D A), the quadratic form of A ⊗ G.

    :param D: change of a layer's parameters, ``[m, n]``
    :param A: ``[n, n]``
    :param G: ``[m, m]``
    """
    return (D * (G @ D @ A)).sum()


def fraction_within(quadratic: float, bound: float) -> float:
    """
    Return the largest factor c ≤ 1 of a step Δ with ½ (cΔ)ᵀF(cΔ) ≤ δ (Wu et al., 2017, §3.3, of the step of the full
    learning rate).

    :param quadratic: ΔᵀFΔ ≥ 0
    :param bound: δ ≥ 0
    """
    return 1.0 if quadratic <= 2 * bound else math.sqrt(2 * bound / quadratic)
