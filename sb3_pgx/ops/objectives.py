"""Losses as pure functions of what the policy returned and a batch."""

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
