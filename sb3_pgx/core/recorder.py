"""Recorder of the rows of a rollout during collection, in NumPy arrays."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.buffer_arrays import doubled, final_value
from sb3_pgx.core.checks import Array, arrays_are_finite, environment_name
from sb3_pgx.core.mixed_spaces import action_dims
from sb3_pgx.core.rollout import CollectedRollout, map_tensors
from sb3_pgx.core.spaces import has_start, kept_action_type, kept_type, zero_based
from sb3_pgx.core.undo import Refusal


class Recorder:
    """
    Keeps the rows of a rollout in arrays during collection, and returns them as a :class:`CollectedRollout`.

    Environments may overwrite what they return at the next step, so everything is copied. Observations are stored zero-based
    (:func:`~sb3_pgx.core.spaces.zero_based`) and in the type on which the policy acts. ``VecNormalize`` turns ``uint8`` into
    floats, which take four bytes per number instead of one.

    :param observation_space: observation space of one environment
    :param action_space: action space of one environment
    :param n_envs: N, number of environments
    :param capacity: initial number of rows; it doubles when they are used up
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int, capacity: int):
        self.space, self.n_envs, self.size, self.capacity = observation_space, n_envs, 0, capacity
        self.observations: Any = None  # an array or a dictionary of arrays, made when the first observations arrive
        self.actions = np.zeros((capacity, n_envs, sum(action_dims(action_space))), kept_action_type(action_space))
        self.rewards = np.zeros((capacity, n_envs), np.float32)
        self.flags = np.zeros((4, capacity, n_envs), bool)  # terminated, truncated, valid, episode start
        self.action_masks: np.ndarray | None = None  # [capacity, N, M], boolean, made when the first masks arrive
        self.final_observations: list[Any] = []  # each an array or a dictionary of arrays
        # What has been computed during collection: values and log-probabilities by row, [N] each, and V of final observations
        # by their index.
        self.known_rows: dict[int, tuple[th.Tensor, th.Tensor]] = {}
        self.known_finals: dict[int, float] = {}
        self.shifts = has_start(observation_space)

    @property
    def episode_starts(self) -> np.ndarray:
        """Whether an episode starts in each row, ``[capacity, N]``."""
        return self.flags[3]

    def observe(self, observations: Array) -> Any:
        """
        Store the observations on which the policy is about to act.

        :param observations: observations as the environment returned them, ``[N, *obs]``
        :return: the stored observations as the policy takes them, in the original shape
        """
        if self.size == self.capacity:
            self._grow()
        if not isinstance(observations, dict):
            self.observations = self._kept(self.observations, observations, self.space)
            return self.observations[self.size].reshape(observations.shape)
        known = self.observations or {}
        parts = {key: part for key, part in self.space.spaces.items() if key in observations}  # type: ignore[attr-defined]
        self.observations = {key: self._kept(known.get(key), observations[key], part) for key, part in parts.items()}
        return {key: self.observations[key][self.size].reshape(observations[key].shape) for key in parts}

    def mask(self, action_masks: np.ndarray | None) -> None:
        """
        Store which actions are valid in the row whose observations were stored last.

        :param action_masks: ``[N, M]``; ``None``: all of them, in every row
        """
        if action_masks is None:
            return
        if self.action_masks is None:
            self.action_masks = np.ones((self.capacity, *action_masks.shape), bool)
        self.action_masks[self.size] = action_masks

    def masks_in(self, t: int) -> np.ndarray | None:
        """Return which actions were valid in row t, ``[N, M]``; ``None``: all of them."""
        return None if self.action_masks is None else self.action_masks[t]

    def add(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
        valid: np.ndarray,
        episode_starts: np.ndarray,
        env: VecEnv,
        evaluated: tuple[th.Tensor | None, th.Tensor | None] | None,
    ) -> None:
        """
        Store the rest of the row whose observations were stored last.

        :param actions: actions as the policy sampled them, ``[N, ...]``
        :param rewards: rewards, ``[N]``
        :param dones: whether the episode ended, ``[N]``
        :param infos: SB3's info dictionaries, one per environment
        :param valid: whether the row counts, ``[N]``
        :param episode_starts: whether an episode started in this row, ``[N]``
        :param env: the environments, for the error
        :param evaluated: values and log-probabilities, if they are known
        :raises ValueError: an episode was truncated, and its final observation is missing
        """
        t = self.size
        if evaluated is not None and evaluated[0] is not None and evaluated[1] is not None:
            self.known_rows[t] = evaluated[0].flatten(), evaluated[1].flatten()
        self.actions[t] = actions.reshape(self.actions.shape[1:])
        self.rewards[t] = rewards
        self.flags[2, t], self.flags[3, t] = valid, episode_starts
        for index in dones.nonzero()[0]:
            truncated = infos[index].get("TimeLimit.truncated", False)
            self.flags[1 if truncated else 0, t, index] = True
            if truncated:
                kept = final_observation(infos[index], env, int(index), self.size)
                self.final_observations.append(zero_based(kept, self.space))
        self.size += 1

    def final_values_in(self, t: int, policy: ActorCriticPolicy) -> Iterator[tuple[int, float]]:
        """Yield the environments whose episode was truncated in row t, and V of their final observations."""
        first = len(self.finals_before(t))
        for place, index in enumerate(self.flags[1, t].nonzero()[0].tolist(), first):
            if place not in self.known_finals:
                self.known_finals[place] = final_value(policy, self.final_observations[place])
            yield index, self.known_finals[place]

    def value_finals(self, value: Callable[[Any, int], float]) -> None:
        """
        Keep V of the final observations of the newest row.

        :param value: function of an observation and its environment
        """
        t = self.size - 1
        for place, index in enumerate(self.flags[1, t].nonzero()[0].tolist(), len(self.finals_before(t))):
            self.known_finals[place] = value(self.final_observations[place], index)

    def finals_before(self, t: int) -> list[Any]:
        """Return the final observations of the rows before row t."""
        return self.final_observations[: int(self.flags[1, :t].sum())]

    @property
    def ends_as_started(self) -> bool:
        """Whether an episode starts exactly after each end of an episode. A callback may have changed the starts."""
        terminated, truncated, _, starts = self.flags[:, : self.size]
        return np.array_equal(starts[1:], terminated[:-1] | truncated[:-1])

    def rollout(self, last_observations: Array, device: th.device) -> CollectedRollout:
        """
        Return the rows so far. On the CPU they share memory with this recorder.

        :param last_observations: observations that the environments returned last, ``[N, *obs]``
        :param device: device of the result
        """

        def to_device(array: np.ndarray) -> th.Tensor:
            return th.from_numpy(array[: self.size]).to(device)

        terminated, truncated, valid, episode_starts = th.from_numpy(self.flags[:, : self.size]).to(device).unbind()
        return CollectedRollout(
            observations=map_tensors(to_device, self.observations),
            actions=to_device(self.actions),
            rewards=to_device(self.rewards),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            episode_starts=episode_starts,
            final_observations=self._stack_final(device),
            last_observations=self.as_tensors(zero_based(last_observations, self.space), self.n_envs, device),
            known_rows=dict(self.known_rows),
            known_finals=dict(self.known_finals),
            action_masks=None if self.action_masks is None else to_device(self.action_masks),
        )

    def as_tensors(self, observations: Any, n: int, device: th.device) -> Any:
        """
        Convert observations that are not in a row to the types and shapes of the rows.

        :param observations: zero-based observations, ``[n, *obs]``
        :param n: number of observations
        :param device: device of the result
        """

        def convert(values: Any, rows: np.ndarray, space: spaces.Space) -> th.Tensor:
            values = np.asarray(values)
            kind = np.promote_types(kept_type(values, space), rows.dtype)
            return th.from_numpy(np.array(values, kind).reshape(n, *rows.shape[2:])).to(device)

        if isinstance(observations, dict):
            parts = self.space.spaces  # type: ignore[attr-defined]
            return {key: convert(observations[key], rows, parts[key]) for key, rows in self.observations.items()}
        return convert(observations, self.observations, self.space)

    def _kept(self, rows: np.ndarray | None, values: np.ndarray, space: spaces.Space) -> np.ndarray:
        """Write ``values`` into the newest row of an array of observations, and return it in a type that holds all rows."""
        values = zero_based(values, space) if self.shifts else values
        if rows is None:
            shape = get_obs_shape(space)
            rows = np.zeros((self.capacity, self.n_envs, *shape), kept_type(values, space))
        elif values.dtype != rows.dtype:
            rows = rows.astype(np.promote_types(kept_type(values, space), rows.dtype), copy=False)
        rows[self.size] = values.reshape(rows.shape[1:])
        return rows

    def _stack_final(self, device: th.device) -> Any:
        if not self.final_observations:
            return None
        first = self.final_observations[0]
        if isinstance(first, dict):
            stacked: Array = {k: np.stack([o[k] for o in self.final_observations]) for k in self.observations}
        else:
            stacked = np.stack(self.final_observations)
        return self.as_tensors(stacked, len(self.final_observations), device)

    def _grow(self) -> None:
        self.observations = map_tensors(doubled, self.observations)
        self.actions, self.rewards = doubled(self.actions), doubled(self.rewards)
        if self.action_masks is not None:
            self.action_masks = doubled(self.action_masks)
        self.flags = np.concatenate([self.flags, np.zeros_like(self.flags)], axis=1)
        self.capacity *= 2


def final_observation(info: dict[str, Any], env: VecEnv, index: int, step: int) -> Array:
    """
    Return a copy of the final observation of an episode. An infinite number that ``VecNormalize`` has clipped is not detected.

    :param info: SB3's info dictionary of the environment
    :param env: the environments, for the error
    :param index: number of the environment
    :param step: number of the step in this rollout, for the error
    :raises Refusal: the observation is missing or not finite
    """
    observation = info.get("terminal_observation")
    if observation is None:
        raise Refusal(
            f"{environment_name(env, index)} was truncated without a terminal_observation in its info: the value of "
            "the state in which the episode was cut off is unknown. SB3's VecEnv classes provide it; a vectorised "
            "environment of your own must put it into info when it resets."
        )
    kept = {k: np.array(v) for k, v in observation.items()} if isinstance(observation, dict) else np.array(observation)
    if not arrays_are_finite(kept):
        raise Refusal(
            f"{environment_name(env, index)} ended an episode with a final observation that is not finite, at step {step} of "
            f"this rollout: {observation}. Check the environment, or wrap it in a wrapper that clips it."
        )
    return kept
