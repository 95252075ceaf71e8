"""Stage 2: values, log-probabilities and the bootstrap values of truncated episodes, in one batched pass."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.policies import unchecked
from sb3_pgx.core.rollout import CollectedRollout, EvaluatedRollout, Observations, PolicyInputs, Rollout, map_tensors
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_graphs import CompiledPass
from sb3_pgx.ops.returns import next_values

# Numbers of observation that one pass may hold: 64 MiB as float32; a network's activations are a small multiple of it.
MAX_NUMBERS = 2**24
MAX_ROWS = 4096  # of a small network; more would leave the cache


def evaluate_rollout(
    policy: ActorCriticPolicy, rollout: CollectedRollout, with_distribution: bool = False
) -> EvaluatedRollout:
    """
    Evaluate a rollout in a few passes over all of its rows.

    :param policy: in evaluation mode, as it acted
    :param rollout: the collected rollout; its ``known_rows`` keep their values and log-probabilities
    :param with_distribution: keep the packed parameters of the action distributions
    :return: the same with values, log-probabilities and bootstrap values
    :raises ValueError: the policy returned NaN or infinity
    """
    given, (n_steps, _) = rollout.known_rows, rollout.shape
    with th.no_grad():
        if with_distribution or len(given) < n_steps:
            values, log_prob, distribution = evaluate_rows(policy, rollout, with_distribution)
            for t, known in given.items():
                values[t], log_prob[t] = known
        else:
            values, log_prob = (th.stack(x) for x in zip(*(given[t] for t in range(n_steps)), strict=True))
            distribution = None
        last_values = values_of(policy, PolicyInputs(rollout.last_observations, rollout.last_masks), rollout.shape[1])
        final = _final_values(policy, rollout)
        following = next_values(values, last_values, rollout.terminated, rollout.truncated, final)
        _check([values, log_prob, following])
        return rollout.evaluated(values, log_prob, following, last_values, distribution)


def evaluate_by_graph(
    policy: ActorCriticPolicy,
    rollout: CollectedRollout,
    graph: CompiledPass,
    modules: Modules,
    gamma: float,
    gae_lambda: float,
) -> Rollout | None:
    """
    Evaluate the rollout and compute GAE in one compiled graph, without keeping the distribution.

    :param policy: in evaluation mode, as it acted
    :param rollout: as collected
    :param graph: an :func:`~sb3_pgx.engine.policy_graphs.evaluation_pass`
    :param modules: the policy's layers, as they were looked at last
    :param gamma: discount factor
    :param gae_lambda: λ
    :return: ``None`` if there is no graph
    :raises ValueError: the policy returned NaN or infinity
    """
    with th.no_grad():
        like, device = next(iter(modules.parameters.values())), rollout.rewards.device
        # Zeros stand for the final values until the graph is known to exist.
        discounts, no_finals = graph.constants(
            (gamma, gae_lambda, rollout.shape, like.dtype, device),
            lambda: (th.tensor((gamma, gae_lambda), dtype=th.float64, device=device), like.new_zeros(rollout.shape)),
        )
        before = [discounts, rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated]
        after = [
            *graph.encode(map_tensors(lambda x: x.flatten(end_dim=1), rollout.inputs)),
            *graph.encode(PolicyInputs(rollout.last_observations)),
        ]
        if not graph.prepare(policy, modules, [*before, no_finals, *after]):
            return None
        final = _final_values(policy, rollout)
        values, log_prob, following, advantages, returns, last_values, check = graph(
            [*before, no_finals if final is None else final.to(no_finals.dtype), *after]  # the policy's values may be wider
        )
        _check([values, log_prob, following], check)
        return rollout.evaluated(values, log_prob, following, last_values).estimated(advantages, returns)


def _check(parts: Sequence[Tensor], total: Tensor | None = None) -> None:
    """
    Refuse values that are not finite. Their sum is tested first; it may have overflowed, so then each part is.

    :param total: the sum of all parts; computed if it is not given
    """
    total = th.stack([x.sum() for x in parts]).sum() if total is None else total
    if not math.isfinite(total) and not all(th.isfinite(x).all() for x in parts):
        raise _not_finite()


def _not_finite() -> Refusal:
    return Refusal(
        "the policy gives values or log-probabilities that are not finite for the observations of this rollout: "
        "the step before was too large (lower learning_rate, set max_grad_norm) or the observations are huge "
        "(wrap the environment in VecNormalize)."
    )


def _refusals() -> Any:
    """Turn the errors of torch's distributions about NaN into a refusal. Errors of the policy's own code pass through."""
    return blaming_numbers(lambda what: _not_finite(), lambda: "while the policy evaluated a rollout")


@_refusals()
def evaluate_rows(
    policy: ActorCriticPolicy, rollout: CollectedRollout, with_distribution: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """
    Return V(s_t) and log π(a_t|s_t), ``[T, N]``, and the packed parameters of π(·|s_t), ``[T, N, K]``.

    :raises Refusal: a value or a log-probability is not finite
    """
    inputs = map_tensors(lambda x: x.flatten(end_dim=1), rollout.inputs)
    actions = rollout.actions.flatten(end_dim=1)
    values, log_prob, distribution = [], [], []
    for rows in chunks(inputs.observations, len(actions)):
        picked = map_tensors(lambda x, rows=rows: x[rows], inputs)
        evaluated = evaluate_actions(policy, picked, actions[rows], with_distribution)
        values.append(evaluated.values)
        log_prob.append(evaluated.log_prob.flatten())
        if evaluated.distribution is not None:
            distribution.append(evaluated.distribution)
    all_values, all_log_prob = th.cat(values), th.cat(log_prob)
    _check([all_values, all_log_prob])
    return (
        all_values.view(rollout.shape),
        all_log_prob.view(rollout.shape),
        th.cat(distribution).unflatten(0, rollout.shape) if with_distribution else None,
    )


def _final_values(policy: ActorCriticPolicy, rollout: CollectedRollout) -> Tensor | None:
    """Return the bootstrap values of truncated episodes: V of their final observations, ``[T, N]``; ``None`` if none."""
    if rollout.final_observations is None:
        return None
    final_inputs = PolicyInputs(rollout.final_observations, rollout.final_masks)
    values = values_of(policy, final_inputs, int(rollout.truncated.sum()))
    for place, value in rollout.known_finals.items():
        values[place] = value
    final = values.new_zeros(rollout.shape)
    final[rollout.truncated] = values
    return final


@_refusals()
def values_of(policy: ActorCriticPolicy, inputs: PolicyInputs, total: int) -> Tensor:
    """Return V of ``total`` states."""
    parts = []
    for r in chunks(inputs.observations, total):
        picked = map_tensors(lambda x, r=r: x[r], inputs)
        with nullcontext() if picked.action_masks is None else unchecked(policy, picked.action_masks):
            parts.append(policy.predict_values(picked.observations).flatten())
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
