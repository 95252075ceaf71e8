"""
Pure functions that compute the metrics of an update from the rollout and from the policy before and after the update.

Each function returns some of the metrics that :class:`~sb3_pgx.diagnostics.DiagnosticsCallback` logs;
:data:`~sb3_pgx.diagnostics.METRICS` says what they mean.
"""

import math
from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_pgx.core.action_masks import mask_parts
from sb3_pgx.core.distributions import Family
from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.mixed_spaces import by_part, is_mixed, parts_of
from sb3_pgx.diagnostics.snapshot import Snapshot
from sb3_pgx.ops.metrics import clip_fraction, effective_sample_size, explained_variance, kl_estimates

Measured = dict[str, Tensor | float]


def kl_metrics(family: Family, before: Tensor, after: Tensor | None) -> Measured:
    """
    Return mean and maximum of the exact KL(old‖new) over the states.

    :param family: family of the action distribution
    :param before: packed parameters of the old distributions, ``[B, K]``
    :param after: packed parameters of the new distributions, ``[B, K]``
    """
    assert after is not None
    kl = family.kl(before, after)
    return {"kl": kl.mean(), "kl_max": kl.max()}


def ratio_metrics(old_log_prob: Tensor, log_prob: Tensor, clip_range: float) -> Measured:
    """
    Return what the sampled actions show of the change of the policy: KL estimates, ratios, effective sample size.

    :param old_log_prob: log-probabilities of the actions when they were sampled, ``[B]``
    :param log_prob: log-probabilities of the same actions now, ``[B]``
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


def initial_ratio_metrics(log_prob: Tensor, old_log_prob: Tensor) -> Measured:
    """
    Return the largest deviation of the ratio from 1 before any gradient step.

    :param log_prob: log-probabilities of the first rows' actions, as the first gradient step computes them, ``[≤ B]``
    :param old_log_prob: log-probabilities that the algorithm stored while acting, ``[B]``
    """
    return {"initial_ratio_error": (log_prob - old_log_prob[: len(log_prob)]).expm1().abs().max()}


def exploration_metrics(
    after: Evaluation, family: Family, action_space: spaces.Space, action_masks: Tensor | None = None
) -> Measured:
    """
    Return the entropy, relative to its maximum if that is finite, and the standard deviations of a Gaussian policy.

    :param after: the new policy's evaluation of the rollout
    :param family: family of the action distribution
    :param action_space: the environment's action space
    :param action_masks: which actions were valid, ``[B, M]``; the share of them is returned, too
    """
    measured: Measured = {"entropy": after.entropy.mean()}
    most: Tensor | float | None = max_entropy(action_space)
    if action_masks is not None:
        options = th.stack([part.sum(dim=1) for part in action_masks.split(mask_parts(action_space), dim=1)], dim=1)
        most = None if most is None else options.log().sum(dim=1).mean()
        measured |= {"valid_actions": action_masks.float().mean()}
    if most is not None:
        share = after.entropy.mean() / most
        return measured | {"relative_entropy": share.nan_to_num(1.0)}  # 0 / 0 where no state leaves a choice
    std = None if after.distribution is None else family.std(after.distribution)
    if std is not None:
        measured |= {"std_mean": std.mean(), "std_min": std.min(), "std_max": std.max()}
    return measured


def max_entropy(action_space: spaces.Space) -> float | None:
    """Return the entropy of uniformly distributed actions, in nats, or ``None`` if some of them are continuous."""
    if is_mixed(action_space):
        parts = [max_entropy(part) for part in parts_of(action_space).values()]
        return None if None in parts else sum(parts)  # type: ignore[arg-type]
    if isinstance(action_space, spaces.Discrete):
        return math.log(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return float(sum(math.log(n) for n in action_space.nvec))
    if isinstance(action_space, spaces.MultiBinary):
        return math.log(2) * math.prod(action_space.shape)
    return None


def critic_metrics(snapshot: Snapshot, after: Evaluation) -> Measured:
    """
    Return how well the values fit the critic's targets before and after the update, and how far the values moved.

    ``value_error`` and ``value_lag`` are root mean squares divided by the standard deviation of the targets, or by 1 % of the
    targets' root mean square if that is larger. Nearly constant targets therefore do not make an error look large.

    :param snapshot: the rollout, with the values before the update
    :param after: the new policy's evaluation of the rollout
    :return: nothing for a policy without a critic
    """
    old, returns, values = snapshot.rows.values, snapshot.rows.returns, after.values
    if not old.any():  # a policy without a critic has zeros for values
        return {}
    return {
        "return_spread": returns.std(correction=0) / returns.square().mean().sqrt(),
        "explained_variance": explained_variance(old, returns),
        "explained_variance_after": explained_variance(values, returns),
        "value_error": relative_size(values - returns, returns),
        "value_lag": relative_size(values - old, returns),
    }


def relative_size(differences: Tensor, values: Tensor) -> Tensor:
    """Return the root mean square of differences, divided by the standard deviation of values or 1 % of their own one."""
    scale = th.maximum(values.std(correction=0), 0.01 * values.square().mean().sqrt())
    return differences.square().mean().sqrt() / scale


def memory_metrics(values: Tensor, without_memory: Tensor, returns: Tensor) -> Measured:
    """
    Return how much a recurrent critic's states reduce the mean squared error of its values.

    :param values: V with the states of the rollout, ``[B]``
    :param without_memory: V with zero states before each row, ``[B]``
    :param returns: critic's targets, ``[B]``
    :return: 0 if neither has an error
    """
    error, error_without = ((x - returns).square().mean() for x in (values, without_memory))
    gain = 1 - error / error_without
    return {"memory_gain": th.where(error == error_without, 0.0, gain)}


def summary_metrics(**signals: Tensor) -> Measured:
    """
    Return mean, standard deviation, minimum and maximum of each signal.

    :param signals: by the name that prefixes the metrics, such as ``advantage``, ``[B]`` each
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


def parameter_metrics(before: Sequence[Tensor], after: Sequence[Tensor]) -> Measured:
    """Return ‖θ_new − θ_old‖ / ‖θ_old‖ over all parameters."""
    old, new = (th.cat([p.detach().flatten() for p in parameters]) for parameters in (before, after))
    return {"parameter_change": th.linalg.vector_norm(new - old) / th.linalg.vector_norm(old)}


def clipped_action_metrics(actions: Tensor, action_space: spaces.Space) -> Measured:
    """Return the share of the action components outside the bounds, which the environment receives clipped."""
    outside = []
    for x, part in by_part(actions, action_space):
        if isinstance(part, spaces.Box):
            low, high = (th.as_tensor(bound, device=x.device).flatten() for bound in (part.low, part.high))
            outside.append((x < low) | (x > high))
    return {"actions_clipped": th.cat(outside, dim=1).float().mean()} if outside else {}


def gradient_metrics(norms: list[float], limit: float | None) -> Measured:
    """
    Return mean and maximum of gradient norms, and the share that is clipped.

    :param norms: norm of each measured minibatch's gradient before clipping
    :param limit: norm to which gradients are clipped; ``None`` if they are not
    """
    if not norms:
        return {}
    clipped = 0.0 if limit is None else sum(norm > limit for norm in norms) / len(norms)
    return {"grad_norm": sum(norms) / len(norms), "grad_norm_max": max(norms), "grad_clipped": clipped}
