"""
ACER's policy gradient (Wang et al., 2017): truncated importance weights, the correction of the bias that truncation causes,
and a trust region around an average policy, in the space of the distribution's statistics φ.

Gradients here are those of the objective to be maximised, with respect to φ, one per row. All inputs count as constants.
"""

import torch as th
from torch import Tensor

# Lower bound of a probability in a denominator, so that the square of the quotient does not overflow.
SMALLEST = 1e-6


def categorical_gradient(
    probs: Tensor,
    behaviour: Tensor,
    actions: Tensor,
    returns: Tensor,
    action_values: Tensor,
    values: Tensor,
    clip: float | Tensor,
) -> Tensor:
    """
    Return the gradient in the probabilities p = π(·|s) (Wang et al., 2017, eq. 9, before the expectation over μ).

        g(a) = 1{a = a_t} min(c / p(a), 1 / μ(a)) (Q^ret − V) + [1 − c μ(a) / p(a)]₊ (Q(a) − V)

    In Σ_a p(a) g(a) ∇log p(a), the first term becomes min(c, ρ_t) ∇log π(a_t) (Q^ret − V), and the second one corrects its
    bias, summed over all actions. In expectation over a_t ~ μ, and if Q^ret = Q, this is the policy gradient for every c.

    :param probs: p, ``[B, A]``
    :param behaviour: μ(·|s), ``[B, A]``
    :param actions: a_t, integers, ``[B]``
    :param returns: Q^ret, ``[B]``
    :param action_values: Q(s, ·), ``[B, A]``
    :param values: V(s), ``[B]``
    :param clip: c, positive; infinite for importance sampling without truncation
    :return: ``[B, A]``
    """
    tiny = th.finfo(probs.dtype).tiny
    p, mu = probs.clamp(min=tiny), behaviour.clamp(min=tiny)
    taken = actions.unsqueeze(1) == th.arange(probs.shape[1], device=probs.device)
    truncated = th.minimum(clip / p, 1 / mu) * (returns - values).unsqueeze(1)
    correction = (1 - clip * mu / p).clamp(min=0) * (action_values - values.unsqueeze(1))
    return th.where(taken, truncated, 0.0) + correction


def logits_gradient(probs: Tensor, gradient: Tensor) -> Tensor:
    """
    Convert a gradient in the probabilities to the logits, with ∂p/∂logits = diag(p) − p pᵀ.

    :param probs: p, ``[B, A]``
    :param gradient: gradient in p, ``[B, A]``
    :return: gradient in the logits, ``[B, A]``
    """
    return probs * (gradient - (probs * gradient).sum(dim=1, keepdim=True))


def categorical_divergence_gradient(probs: Tensor, average: Tensor) -> Tensor:
    """
    Return ∇_p KL(p_a‖p) = −p_a / p.

    :param probs: p, ``[B, A]``
    :param average: p_a, ``[B, A]``
    :return: ``[B, A]``
    """
    return -average / probs.clamp(min=SMALLEST)


def gaussian_gradient(parameters: Tensor, actions: Tensor, weights: Tensor, with_std: bool) -> Tensor:
    """
    Return Σ_j w_j ∇_φ log N(a_j; μ, σ) for φ = μ or φ = (μ, log σ).

        ∂/∂μ = (a − μ) / σ²,   ∂/∂log σ = (a − μ)² / σ² − 1

    :param parameters: means, then standard deviations, ``[B, 2 D]``
    :param actions: a_j, ``[J, B, D]``
    :param weights: w_j, ``[J, B]``
    :param with_std: whether φ includes log σ
    :return: ``[B, D]``, or ``[B, 2 D]``
    """
    mean, std = parameters.chunk(2, dim=1)
    scaled = (actions - mean) / std
    weights = weights.unsqueeze(2)
    in_mean = (weights * scaled / std).sum(dim=0)
    return th.cat([in_mean, (weights * (scaled.square() - 1)).sum(dim=0)], dim=1) if with_std else in_mean


def gaussian_divergence_gradient(parameters: Tensor, average: Tensor, with_std: bool) -> Tensor:
    """
    Return ∇_φ KL(N_a‖N) for φ = μ or φ = (μ, log σ).

        ∂/∂μ = (μ − μ_a) / σ²,   ∂/∂log σ = 1 − (σ_a² + (μ − μ_a)²) / σ²

    :param parameters: means, then standard deviations, of N, ``[B, 2 D]``
    :param average: means, then standard deviations, of N_a, ``[B, 2 D]``
    :param with_std: whether φ includes log σ
    :return: ``[B, D]``, or ``[B, 2 D]``
    """
    (mean, std), (average_mean, average_std) = parameters.chunk(2, dim=1), average.chunk(2, dim=1)
    variance, distance = std.square(), mean - average_mean
    in_mean = distance / variance
    return th.cat([in_mean, 1 - (average_std.square() + distance.square()) / variance], dim=1) if with_std else in_mean


def truncated_weights(ratio: Tensor, resampled_ratio: Tensor, clip: float | Tensor) -> Tensor:
    """
    Return the importance weights of the two terms of ACER's gradient, ∇log π(a_t) (Q^opc − V) and ∇log π(a') (Q(a') − V) with
    a' ~ π (Wang et al., 2017, section 3.2).

    :param ratio: ρ(a_t) of the action taken, ``[B]``
    :param resampled_ratio: ρ(a') of an action sampled from the current policy, ``[B]``
    :param clip: c, positive
    :return: min(c, ρ(a_t)) and [1 − c / ρ(a')]₊, ``[2, B]``
    """
    return th.stack([ratio.clamp(max=clip), (1 - clip / resampled_ratio).clamp(min=0)])


def trust_region(gradient: Tensor, divergence_gradient: Tensor, delta: float | Tensor) -> Tensor:
    """
    Project g onto the trust region: return the nearest vector along which the policy leaves the average policy at a rate of at
    most δ (Wang et al., 2017, eq. 12).

        z = argmin ½‖g − z‖²  subject to  kᵀz ≤ δ,   k = ∇_φ KL(average‖policy)
          = g − max(0, (kᵀg − δ) / ‖k‖²) k

    δ bounds each row separately, so the projection must come before any sum or mean over rows.

    :param gradient: g, ``[B, S]``
    :param divergence_gradient: k, ``[B, S]``
    :param delta: δ ≥ 0; infinite disables the trust region
    :return: z, ``[B, S]``
    """
    excess = ((divergence_gradient * gradient).sum(dim=1, keepdim=True) - delta).clamp(min=0)
    square = divergence_gradient.square().sum(dim=1, keepdim=True)
    return gradient - excess / square.clamp(min=th.finfo(square.dtype).tiny) * divergence_gradient


def dueling(values: Tensor, advantages: Tensor, sampled_advantages: Tensor) -> Tensor:
    """
    Return the value of a stochastic dueling network, whose expectation over a ~ π and the u_i is V (Wang et al., 2017,
    section 5).

        Q̃(s, a) = V(s) + A(s, a) − (1/n) Σ_i A(s, u_i),   u_i ~ π(·|s)

    :param values: V(s), ``[B]``
    :param advantages: A(s, a), ``[B]``
    :param sampled_advantages: A(s, u_i), ``[n, B]``
    :return: ``[B]``
    """
    return values + advantages - sampled_advantages.mean(dim=0)
