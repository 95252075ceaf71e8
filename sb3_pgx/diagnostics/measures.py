"""
What an update did, as numbers: pure functions of a rollout, of what the policy said of it before, and of what it says now.

Each function gives some of the metrics that :class:`~sb3_pgx.diagnostics.DiagnosticsCallback` logs.
"""

import math
from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_pgx.core.distributions import Family
from sb3_pgx.diagnostics.snapshot import Snapshot
from sb3_pgx.engine.step import Evaluation
from sb3_pgx.ops.metrics import clip_fraction, effective_sample_size, explained_variance, kl_estimates

Measured = dict[str, Tensor | float]


def divergence(family: Family, before: Tensor, after: Tensor | None) -> Measured:
    """
    The exact KL(old‖new), mean and maximum over the states.

    :param family: of the action distribution
    :param before: its packed parameters, ``[B, K]``
    :param after: likewise
    """
    assert after is not None
    kl = family.kl(before, after)
    return {"kl": kl.mean(), "kl_max": kl.max()}


def ratios(old_log_prob: Tensor, log_prob: Tensor, clip_range: float) -> Measured:
    """
    What the samples say of the change of the policy.

    :param old_log_prob: of the actions, when they were taken, ``[B]``
    :param log_prob: of the same actions now, ``[B]``
    :param clip_range: ε of ``clip_fraction``
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    k1, k2, k3 = kl_estimates(log_ratio)
    return {
        "approx_kl": k3,
        "approx_kl_k1": k1,
        "approx_kl_k2": k2,
        "clip_fraction": clip_fraction(ratio, clip_range),
        "ratio_mean": ratio.mean(),
        "ratio_std": ratio.std(correction=0),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "effective_sample_size": effective_sample_size(log_ratio),
    }


def mismatch(log_prob: Tensor, old_log_prob: Tensor) -> Measured:
    """
    How far from 1 the ratio is before any step was taken.

    :param log_prob: as the update's first step sees it, of the first rows, ``[≤ B]``
    :param old_log_prob: as the algorithm has it from acting, ``[B]``
    """
    return {"initial_ratio_error": (log_prob - old_log_prob[: len(log_prob)]).expm1().abs().max()}


def exploration(after: Evaluation, action_space: spaces.Space) -> Measured:
    """Entropy, beside its maximum where there is one, and the standard deviations of a Gaussian."""
    measured: Measured = {"entropy": after.entropy.mean()}
    most = greatest_entropy(action_space)
    if most is not None:
        return measured | {"relative_entropy": after.entropy.mean() / most}
    if after.distribution is not None:
        std = after.distribution.chunk(2, dim=1)[1]
        measured |= {"std_mean": std.mean(), "std_min": std.min(), "std_max": std.max()}
    return measured


def greatest_entropy(action_space: spaces.Space) -> float | None:
    """Of any distribution over the actions, in nats; ``None`` for a continuous space."""
    if isinstance(action_space, spaces.Discrete):
        return math.log(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return float(sum(math.log(n) for n in action_space.nvec))
    if isinstance(action_space, spaces.MultiBinary):
        return math.log(2) * math.prod(action_space.shape)
    return None


def critic(snapshot: Snapshot, after: Evaluation) -> Measured:
    """
    How well the values fit the returns that the critic learns from, before and after, and how far they moved.

    ``value_error`` and ``value_lag`` are root mean squares, as shares of the returns' standard deviation, or of 1 % of their
    root mean square where that is more: returns that hardly vary make no error large.
    """
    old, returns, values = snapshot.rows.values, snapshot.rows.returns, after.values
    if not old.any():  # of a policy without a critic, whose values are zeros
        return {}
    spread, size = returns.std(correction=0), returns.square().mean().sqrt()
    scale = th.maximum(spread, 0.01 * size)
    return {
        "return_spread": spread / size,
        "explained_variance": explained_variance(old, returns),
        "explained_variance_after": explained_variance(values, returns),
        "value_error": (values - returns).square().mean().sqrt() / scale,
        "value_lag": (values - old).square().mean().sqrt() / scale,
    }


def scales(**signals: Tensor) -> Measured:
    """
    Mean, standard deviation, least and greatest of each signal.

    :param signals: such as the advantages, before any normalisation, ``[B]``
    """
    measured: Measured = {}
    for name, x in signals.items():
        measured |= {
            f"{name}_mean": x.mean(),
            f"{name}_std": x.std(correction=0),
            f"{name}_min": x.min(),
            f"{name}_max": x.max(),
        }
    return measured


def movement(before: Sequence[Tensor], after: Sequence[Tensor]) -> Measured:
    """‖θ_new − θ_old‖ / ‖θ_old‖ over all parameters."""
    old, new = (th.cat([p.detach().flatten() for p in parameters]) for parameters in (before, after))
    return {"parameter_change": th.linalg.vector_norm(new - old) / th.linalg.vector_norm(old)}


def clipped_actions(actions: Tensor, action_space: spaces.Space) -> Measured:
    """The share of the numbers in the actions that lie outside the bounds, where the environment gets the bound instead."""
    if not isinstance(action_space, spaces.Box):
        return {}
    low, high = (th.as_tensor(x, device=actions.device).flatten() for x in (action_space.low, action_space.high))
    return {"actions_clipped": ((actions < low) | (actions > high)).float().mean()}


def gradient_norms(norms: list[float], limit: float | None) -> Measured:
    """
    :param norms: of minibatches' gradients, before clipping
    :param limit: what they are clipped to; ``None``: not at all
    """
    if not norms:
        return {}
    clipped = 0.0 if limit is None else sum(norm > limit for norm in norms) / len(norms)
    return {"grad_norm": sum(norms) / len(norms), "grad_norm_max": max(norms), "grad_clipped": clipped}
