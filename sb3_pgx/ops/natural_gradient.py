"""
Steps along F⁻¹g without forming F: products with a matrix, conjugate gradients that use them, and the length of a step.

Vectors are flat, ``[P]``; a *product* maps v to A v for a symmetric A.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch as th
from torch import Tensor
from torch.func import vjp

Product = Callable[[Tensor], Tensor]
StoppedBy = Literal["tolerance", "max_steps", "curvature"]


class Solution(NamedTuple):
    """
    Result of :func:`conjugate_gradient`.

    ``residual`` and ``curvature`` cost no product: r = b − A x is updated with x, and xᵀ(b − r) equals xᵀAx by the definition
    of r, however early the iteration stops. (Using xᵀb would also require x ⟂ r, which rounding breaks first.) With a damped
    product, the curvature includes the damping: xᵀ(F + λI)x = xᵀFx + λ‖x‖².
    """

    x: Tensor  # [P]
    residual: float  # ‖b − A x‖ / ‖b‖, 0 for b = 0
    curvature: float  # xᵀAx
    steps: int  # iterations
    stopped_by: StoppedBy


def conjugate_gradient(product: Product, b: Tensor, max_steps: int, tolerance: float) -> Solution:
    """
    Solve A x = b for a symmetric, positive definite A, starting at 0 (Hestenes & Stiefel, 1952).

    After k steps, x minimises ½ xᵀAx − bᵀx over the span of b, Ab, …, A^{k−1}b; the residual may grow temporarily. If the
    curvature pᵀAp of a direction is not positive and finite, or too small to divide by, A is not positive definite: the
    iteration stops with the x before that direction. b = 0 needs no product.

    :param product: v -> A v
    :param b: ``[P]``
    :param max_steps: the most steps, each one product
    :param tolerance: stop at ‖b − A x‖ <= tolerance · ‖b‖
    :return: x, and how it was found
    """
    x, scale = th.zeros_like(b), b.abs().max()
    if scale == 0:
        return Solution(x, 0.0, 0.0, 0, "tolerance")
    target = b / scale  # the squares of b itself could underflow or overflow
    r = p = target
    rr = first = r @ r
    residual, steps = 1.0, 0
    stopped_by: StoppedBy = "tolerance"
    while residual > tolerance:
        if steps == max_steps:
            stopped_by = "max_steps"
            break
        Ap = product(p)
        pAp = p @ Ap
        length = rr / pAp
        next_r = r - length * Ap
        next_rr = next_r @ next_r
        curvature, squared = th.stack([pAp, next_rr / first]).tolist()  # the only transfer to the host per step
        if not (0 < curvature < math.inf and math.isfinite(squared)):
            stopped_by = "curvature"
            break
        x = x + scale * length * p
        r, p, rr = next_r, next_r + next_rr / rr * p, next_rr
        residual, steps = math.sqrt(squared), steps + 1
    return Solution(x, residual, scale.item() * (x @ (target - r)).item(), steps, stopped_by)


def gauss_newton_product(function: Callable[[Tensor], Tensor], theta: Tensor, metric: Callable[[Tensor], Tensor]) -> Product:
    """
    Return the product v -> Jᵀ M J v / B, where J is the Jacobian of ``function`` at θ (Schulman et al., 2015, app. C).

    With a Fisher metric of :mod:`~sb3_pgx.ops.divergences`, the matrix is the Fisher matrix of the policy, which is the
    Hessian of the mean KL at the old policy. With V as the function and the identity as the metric, it is (1/B) Σ ∇V ∇Vᵀ.

    Both factors use reverse mode: Jᵀu is linear in u, so J v is the gradient of vᵀ(Jᵀu) in u. Forward mode
    (``torch.func.jvp``) would need no second derivative, but its nesting level in torch is global to the process: two threads
    that use it at once get wrong numbers.

    :param function: θ ``[P]`` -> outputs ``[B, K]``; it must be differentiable twice
    :param theta: θ, ``[P]``
    :param metric: tangents of the outputs ``[B, K]`` -> each row multiplied by its M, ``[B, K]``
    """
    outputs, pullback, *_ = vjp(function, theta)  # u -> Jᵀu
    pushforward = vjp(lambda u: vjp(function, theta)[1](u)[0], th.zeros_like(outputs))[1]  # v -> J v

    def product(v: Tensor) -> Tensor:
        return pullback(metric(pushforward(v)[0]))[0] / len(outputs)

    return product


def damped(product: Product, damping: float) -> Product:
    """
    Return the product v -> A v + λ v. Damping limits the step along directions of small curvature to g / λ.

    :param product: v -> A v
    :param damping: λ >= 0
    """
    return lambda v: product(v) + damping * v


def kl_step_length(curvature: float, delta: float) -> float:
    """
    Return β = √(2 δ / sᵀFs), for which ½ (β s)ᵀ F (β s) = δ: the KL divergence is δ to second order (Schulman et al., 2015,
    app. C).

    :param curvature: sᵀFs
    :param delta: δ >= 0
    :return: β; 0 if the curvature is not positive
    """
    return math.sqrt(2 * delta / curvature) if curvature > 0 else 0.0


def capped_step_length(curvature: float, epsilon: float, variance: float) -> float:
    """
    Return α = min(½, √(2 ε σ² / sᵀHs)), the longest useful step of a value function within its trust region.

    With H = (1/N) Σ j jᵀ, j = ∇V, s = −H⁻¹g and g the gradient of mean (V − V̂)², the step α s changes V so that
    mean (ΔV)² / (2 σ²) = α² sᵀHs / (2 σ²), which must not exceed ε (Schulman et al., 2016, eq. 29). Along s

        mean (V + ΔV − V̂)² = const + α gᵀs + α² sᵀHs = const + (α² − α) sᵀHs,  least at α = ½:

    The paper's text always steps to the boundary, which overshoots near the optimum, and omits σ².

    :param curvature: sᵀHs
    :param epsilon: ε >= 0
    :param variance: σ² = mean (V_old − V̂)²
    :return: α; 0 if the curvature is not positive
    """
    return min(0.5, kl_step_length(curvature, epsilon * variance))


class LineSearch(NamedTuple):
    """Result of :func:`backtracking`. Improvement and divergence are those of the last step tried, accepted or not."""

    scale: float  # 0 if no step was accepted
    improvement: float
    divergence: float
    tried: int  # number of scales tried

    @property
    def accepted(self) -> bool:
        """Return whether a step was accepted."""
        return self.scale > 0


def backtracking(measure: Callable[[float], tuple[float, float]], shrink: float, max_steps: int, limit: float) -> LineSearch:
    """
    Find the first of the scales 1, shrink, shrink², … that improves within the limit (Schulman et al., 2015, app. C).

    :param measure: scale of the full step -> (improvement of the objective, divergence from the old policy). A scale is
        accepted if the improvement is > 0 and the divergence <= ``limit``, both finite
    :param shrink: factor between two scales, in (0, 1)
    :param max_steps: largest number of scales tried, at least 1
    :param limit: largest divergence
    """
    improvement = divergence = math.nan
    for k in range(max_steps):
        improvement, divergence = measure(shrink**k)
        if improvement > 0 and divergence <= limit and math.isfinite(improvement) and math.isfinite(divergence):
            return LineSearch(shrink**k, improvement, divergence, k + 1)
    return LineSearch(0.0, improvement, divergence, max_steps)
