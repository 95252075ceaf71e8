"""Conversions between a rollout's tensors and the arrays of SB3's rollout buffers."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pgx.core.rollout import EvaluatedRollout, Rollout, map_tensors

# The arrays of SB3's buffer that an update may learn from: name in the buffer -> name in the rollout.
LEARNED = {
    "observations": "observations",
    "actions": "actions",
    "values": "values",
    "log_probs": "log_prob",
    "advantages": "advantages",
    "returns": "returns",
}
COLUMNS = (*LEARNED, "rewards", "episode_starts")


def final_value(policy: ActorCriticPolicy, observation: Any) -> float:
    """Return V of one observation, as SB3 computes it."""
    with th.no_grad():
        return float(policy.predict_values(policy.obs_to_tensor(observation)[0]))


def shown_rewards(rollout: EvaluatedRollout, gamma: float) -> th.Tensor:
    """Return the rewards as SB3's buffer holds them, ``[T, N]``: γ V(final observation) is added where truncated."""
    return rollout.rewards + gamma * rollout.next_values * rollout.truncated


def rollout_of(buffer: RolloutBuffer, dones: np.ndarray | None, device: th.device) -> Rollout:
    """
    Return a rollout of the rows that a caller has added to a buffer. An episode is taken to end where the next one starts;
    whether it was truncated is unknown.

    :param buffer: a full rollout buffer with SB3's arrays
    :param dones: whether an episode ended in the last row, ``[N]``; ``None``: not known
    :param device: device of the result
    """
    starts = th.as_tensor(np.array(buffer.episode_starts, bool), device=device)
    ends = th.cat([starts[1:], th.as_tensor(np.zeros(buffer.n_envs, bool) if dones is None else dones, device=device)[None]])
    shape = ends.shape[0], ends.shape[1]
    learned: dict[str, Any] = {
        attribute: learned_rows(name, getattr(buffer, name), None, shape, device, buffer.generator_ready)
        for name, attribute in LEARNED.items()
    }
    masks = getattr(buffer, "action_masks", None)
    return Rollout(
        action_masks=None if masks is None else th.as_tensor(np.array(masks, bool), device=device),
        rewards=th.as_tensor(np.array(buffer.rewards, np.float32), device=device),
        terminated=ends,
        truncated=th.zeros_like(ends),
        valid=th.ones_like(ends),
        episode_starts=starts,
        final_observations=None,
        last_observations=map_tensors(lambda x: x[-1], learned["observations"]),
        next_values=th.zeros_like(learned["values"]),  # not known, and nobody needs them: the estimates are there
        last_values=th.zeros_like(learned["values"][-1]),
        **learned,
    )


def learned_rows(name: str, array: Any, like: Any, shape: tuple[int, int], device: th.device, flattened: bool) -> Any:
    """
    Convert an array of the buffer to a tensor ``[T, N, ...]``, or a dictionary of arrays to one of tensors.

    :param name: name of the array, for the error
    :param array: array or dictionary of arrays
    :param like: tensors with the wanted shape and type; ``None``: unknown
    :param shape: T and N
    :param device: device of the result
    :param flattened: whether SB3's ``get`` has flattened the arrays to ``[N * T, ...]``
    :raises ValueError: the array has another shape
    """
    if isinstance(array, dict):
        parts = {key: None if like is None else like[key] for key in (like or array)}
        return {key: learned_rows(name, array[key], part, shape, device, flattened) for key, part in parts.items()}
    if flattened:
        array = np.reshape(array, (shape[1], shape[0], *np.shape(array)[1:])).swapaxes(0, 1)
    return as_rows(name, array, like, shape, device)


def as_rows(name: str, array: Any, like: th.Tensor | None, shape: tuple[int, int], device: th.device) -> th.Tensor:
    """
    Return an array as a tensor ``[T, N, ...]``.

    :param name: name of the array, for the error
    :param array: an array or a tensor
    :param like: tensor with the wanted shape and type (observations and actions keep their own type); ``None``: unknown
    :param shape: T and N
    :param device: device of the result
    :raises ValueError: the array has another shape
    """
    values = array.numpy(force=True) if isinstance(array, th.Tensor) else np.asarray(array)
    own = name in ("observations", "actions")
    rest = like.shape[2:] if like is not None else values.shape[2:] if own else ()
    try:
        values = values.reshape(*shape, *rest)
    except ValueError:
        raise ValueError(
            f"rollout_buffer.{name} has the shape {values.shape}, and the rollout has {shape[0]} steps of {shape[1]} "
            "environments: assign an array of the original shape"
        ) from None
    kind = None if own else th.float32 if like is None else like.dtype
    return th.as_tensor(np.ascontiguousarray(values), dtype=kind, device=device)


def as_types_of(like: Any, array: Any) -> Any:
    """Convert observations to the types of the observations ``like``."""
    if isinstance(like, dict):
        return {key: array[key].astype(x.dtype, copy=False) for key, x in like.items()}
    return array.astype(like.dtype, copy=False)


def doubled(array: np.ndarray) -> np.ndarray:
    """Return the array with twice as many rows, the new ones 0."""
    return np.concatenate([array, np.zeros_like(array)])


def paired_arrays(one: Any, other: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of arrays of two sets of observations: one pair per key of a dictionary, otherwise a single pair."""
    return [(one[k], other[k]) for k in one] if isinstance(one, dict) else [(one, other)]


def to_numpy(values: th.Tensor) -> np.ndarray:
    """Return a tensor's numbers as an array: a view for a tensor on the CPU, a copy for one on CUDA."""
    return values.numpy(force=True)
