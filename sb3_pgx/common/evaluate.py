"""The one batched pass after collection: values, log-probabilities, and the values that complete cut episodes."""

import math
from collections.abc import Iterator

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.distributions import packed
from sb3_pgx.common.passes import CompiledPass, as_tensors
from sb3_pgx.common.rollout import Observations, Rollout, as_policy_input, map_tensors

# Numbers of observation that one pass may hold: 64 MiB as float32; a network's activations are a small multiple of it.
MAX_NUMBERS = 2**24
MAX_ROWS = 8192


def evaluate_rollout(
    policy: ActorCriticPolicy,
    rollout: Rollout,
    compiled: CompiledPass | None = None,
    version: int = 0,
    with_distribution: bool = False,
) -> None:
    """
    Fill in ``values``, ``log_prob``, ``last_values`` and ``next_values``, and ``distribution`` if it is wanted.

    :param policy: in evaluation mode, as it acted
    :param rollout: as collected; values and log-probabilities that acting has given are kept
    :param compiled: pass for a short rollout
    :param version: of the policy's layers, for that pass
    :param with_distribution: keep the packed parameters of the action distributions
    :raises ValueError: the policy returned NaN or infinity
    """
    with th.no_grad():
        try:
            if with_distribution or compiled is None or hasattr(rollout, "values"):
                _evaluate_eagerly(policy, rollout, with_distribution)
            elif not _evaluate_compiled(policy, rollout, compiled, version):
                _evaluate_eagerly(policy, rollout)
        except ValueError as error:  # torch's distributions refuse a standard deviation of 0 or infinity, and NaN
            raise _not_finite() from error
        rollout.next_values = bootstrap_values(policy, rollout)
        parts = (rollout.values, rollout.next_values, rollout.log_prob)
        # The sum is a quick test that only a finite overflow can fail wrongly.
        if not math.isfinite(sum(x.sum() for x in parts)) and not all(th.isfinite(x).all() for x in parts):
            raise _not_finite()


def _not_finite() -> ValueError:
    return ValueError(
        "the policy gives values or log-probabilities that are not finite for the observations of this rollout: "
        "the step before was too large (lower learning_rate, set max_grad_norm) or the observations are huge "
        "(wrap the environment in VecNormalize)."
    )


def _evaluate_compiled(policy: ActorCriticPolicy, rollout: Rollout, compiled: CompiledPass, version: int) -> bool:
    """:return: false where there is no compiled pass for this rollout"""
    inputs = [rollout.actions.flatten(end_dim=1)]
    inputs += as_tensors(policy, map_tensors(lambda x: x.flatten(end_dim=1), rollout.observations))
    inputs += as_tensors(policy, rollout.last_observations)
    if not compiled.prepare(policy, version, inputs):
        return False
    values, log_prob, rollout.last_values = compiled(inputs)
    rollout.values, rollout.log_prob = values.view(rollout.shape), log_prob.view(rollout.shape)
    return True


def _evaluate_eagerly(policy: ActorCriticPolicy, rollout: Rollout, with_distribution: bool = False) -> None:
    if with_distribution or not hasattr(rollout, "values"):
        values, log_prob, distribution = evaluate_rows(policy, rollout, with_distribution)
        rollout.distribution = distribution
        if not hasattr(rollout, "values"):
            rollout.values, rollout.log_prob = values, log_prob
    rollout.last_values = values_of(policy, rollout.last_observations, rollout.shape[1])


def evaluate_rows(
    policy: ActorCriticPolicy, rollout: Rollout, with_distribution: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """V(s_t) and log π(a_t|s_t), ``[T, N]`` each, and the packed parameters of π(·|s_t), ``[T, N, K]``, of the policy now."""
    observations = map_tensors(lambda x: x.flatten(end_dim=1), rollout.observations)
    actions = rollout.actions.flatten(end_dim=1)
    values, log_prob, distribution = [], [], []
    for rows in chunks(observations, len(actions)):
        picked = map_tensors(lambda x, rows=rows: x[rows], observations)
        value, log_probability, _ = policy.evaluate_actions(picked, as_policy_input(actions[rows], policy.action_space))
        values.append(value.flatten())
        log_prob.append(log_probability.flatten())
        if with_distribution:
            distribution.append(packed(policy.action_dist))
    return (
        th.cat(values).view(rollout.shape),
        th.cat(log_prob).view(rollout.shape),
        th.cat(distribution).unflatten(0, rollout.shape) if with_distribution else None,
    )


def bootstrap_values(policy: ActorCriticPolicy, rollout: Rollout) -> Tensor:
    """V(s_{t+1}), ``[T, N]``: of the final observation where truncated, 0 where terminated."""
    following = th.cat([rollout.values[1:], rollout.last_values[None]])
    if rollout.final_observations is not None:
        following[rollout.truncated] = values_of(policy, rollout.final_observations, int(rollout.truncated.sum()))
    return following.masked_fill_(rollout.terminated, 0.0)


def values_of(policy: ActorCriticPolicy, observations: Observations, total: int) -> Tensor:
    """V of ``total`` observations."""
    parts = [
        policy.predict_values(map_tensors(lambda x, r=r: x[r], observations)).flatten() for r in chunks(observations, total)
    ]
    return th.cat(parts)


def chunks(observations: Observations, total: int, leading: int = 1) -> Iterator[slice]:
    """
    Consecutive rows, as many at a time as memory allows.

    :param observations: what the rows are made of, ``[..., *obs]``
    :param total: number of rows
    :param leading: dimensions before those of one observation
    """
    tensors = observations.values() if isinstance(observations, dict) else [observations]
    numbers = sum(x.shape[leading:].numel() for x in tensors)
    rows = min(MAX_ROWS, max(1, MAX_NUMBERS // max(numbers, 1)))
    for start in range(0, total, rows):
        yield slice(start, min(start + rows, total))
