"""The one batched pass after collection: values, log-probabilities, and the values that complete cut episodes."""

from collections.abc import Iterator
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.rollout import Observations, Rollout, map_tensors

# Numbers of observation that one pass may hold: 64 MiB as float32; a network's activations are a small multiple of it.
MAX_NUMBERS = 2**24
MAX_ROWS = 8192


def evaluate_rollout(policy: ActorCriticPolicy, rollout: Rollout, action_space: spaces.Space) -> None:
    """
    Fill in ``values``, ``log_prob``, ``last_values`` and ``next_values``.

    :param policy: in evaluation mode, as it acted
    :param rollout: as collected; values and log-probabilities that acting has given are kept
    :param action_space: of one environment
    :raises ValueError: the policy returned NaN or infinity
    """
    with th.no_grad():
        if not hasattr(rollout, "values"):
            rollout.values, rollout.log_prob = evaluate_rows(policy, rollout, action_space)
        rollout.last_values, rollout.next_values = bootstrap_values(policy, rollout)
    if not all(th.isfinite(x).all() for x in (rollout.values, rollout.next_values, rollout.log_prob)):
        raise ValueError(
            "the policy gives values or log-probabilities that are not finite for the observations of this rollout: "
            "the step before was too large (lower learning_rate, set max_grad_norm) or the observations are huge "
            "(wrap the environment in VecNormalize)."
        )


def evaluate_rows(policy: ActorCriticPolicy, rollout: Rollout, action_space: spaces.Space) -> tuple[Tensor, Tensor]:
    """V(s_t) and log π(a_t|s_t), ``[T, N]`` each."""
    observations = map_tensors(lambda x: x.flatten(end_dim=1), rollout.observations)
    actions = rollout.actions.flatten(end_dim=1)
    values, log_prob = [], []
    for rows in chunks(observations, len(actions)):
        picked = map_tensors(lambda x, rows=rows: x[rows], observations)
        value, log_probability, _ = policy.evaluate_actions(picked, as_policy_input(actions[rows], action_space))
        values.append(value.flatten())
        log_prob.append(log_probability.flatten())
    return th.cat(values).view(rollout.shape), th.cat(log_prob).view(rollout.shape)


def bootstrap_values(policy: ActorCriticPolicy, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """
    Values of the last observations ``[N]``, and V(s_{t+1}) ``[T, N]``: of the final observation where truncated, 0 where
    terminated. Those that are not among ``rollout.values`` come from one batched pass.
    """
    unknown: Any = rollout.last_observations
    if rollout.final_observations is not None:
        final: Any = rollout.final_observations
        unknown = {k: th.cat([unknown[k], final[k]]) for k in unknown} if isinstance(final, dict) else th.cat([unknown, final])
    total = rollout.shape[1] + int(rollout.truncated.sum())
    parts = [policy.predict_values(map_tensors(lambda x, r=r: x[r], unknown)).flatten() for r in chunks(unknown, total)]
    known = th.cat(parts)
    last, final_values = known.split([rollout.shape[1], len(known) - rollout.shape[1]])
    following = th.cat([rollout.values[1:], last[None]])
    following[rollout.truncated] = final_values
    following[rollout.terminated] = 0.0
    return last, following


def as_policy_input(actions: Tensor, action_space: spaces.Space) -> Tensor:
    """Stored actions ``[B, action_dim]`` in the type and shape that SB3's policies evaluate."""
    return actions.long().flatten() if isinstance(action_space, spaces.Discrete) else actions.float()


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
