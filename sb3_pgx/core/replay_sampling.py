"""Samples of a replay memory: drawn as SB3 does, from the same random numbers and in half of the time, and their targets."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


def sample_replay(buffer: ReplayBuffer, batch_size: int, normalize: VecNormalize | None) -> Any:
    """
    Return random transitions of a replay memory. Those of SB3's ``ReplayBuffer`` itself are gathered here; any other memory
    samples them by its own method.

    :param buffer: the memory
    :param batch_size: number of transitions
    :param normalize: normalises observations and rewards; ``None``: they are returned as they were stored
    :return: the transitions, on the memory's device
    """
    plain = type(buffer) is ReplayBuffer and not vars(buffer).keys() & {"sample", "_get_samples", "to_torch"}
    if not plain or normalize is not None or buffer.optimize_memory_usage:
        return buffer.sample(batch_size, env=normalize)
    rows = np.random.randint(0, buffer.buffer_size if buffer.full else buffer.pos, size=batch_size)
    rows = rows * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=batch_size)

    def gathered(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, *array.shape[2:]).take(rows, axis=0)  # [rows, N, ...] -> [batch, ...]

    ends = gathered(buffer.dones) * (1 - gathered(buffer.timeouts))
    arrays = (
        gathered(buffer.observations),
        gathered(buffer.actions),
        gathered(buffer.next_observations),
        ends.reshape(-1, 1),
        gathered(buffer.rewards).reshape(-1, 1),
    )
    return ReplayBufferSamples(*(th.from_numpy(array).to(buffer.device) for array in arrays))


def n_step_arrays(
    buffer: NStepReplayBuffer, times: np.ndarray, envs: np.ndarray, normalize: VecNormalize | None
) -> tuple[np.ndarray, ...]:
    """
    Return n-step transitions as SB3's ``NStepReplayBuffer``, which draws the environments by itself, does: they end early with
    the episode, or with the newest transition.

    :param buffer: the memory
    :param times: first step of each transition, ``[B]``
    :param envs: its environment, ``[B]``
    :param normalize: normalises observations and rewards
    :return: observations, actions, next observations, whether the episode terminated, returns Σ γ^i r_i, and discounts γ^n
    """
    ahead = np.arange(buffer.n_steps)
    steps, column = (times[:, None] + ahead) % buffer.buffer_size, envs[:, None]  # [B, n]
    newest = (buffer.pos - 1) % buffer.buffer_size
    ends = (buffer.dones[steps, column] > 0) | (buffer.timeouts[steps, column] > 0) | (steps == newest)
    more = np.where(ends.any(axis=1), ends.argmax(axis=1), buffer.n_steps - 1)[:, None]  # steps after the first
    last = steps[np.arange(len(steps)), more[:, 0]]
    rewards = buffer._normalize_reward(buffer.rewards[steps, column], normalize)
    returns = (rewards * (ahead <= more) * np.float32(buffer.gamma) ** ahead).sum(axis=1, keepdims=True)
    return (
        buffer._normalize_obs(buffer.observations[times, envs], normalize),  # type: ignore[return-value]
        buffer.actions[times, envs],
        buffer._normalize_obs(buffer.next_observations[last, envs], normalize),
        (buffer.dones[last, envs] * (1 - buffer.timeouts[last, envs]))[:, None],
        returns.astype(np.float32),
        (buffer.gamma ** (more + 1)).astype(np.float32),
    )


def bootstrapped(batch: Any, gamma: Any, next_values: Tensor) -> Tensor:
    """
    Return r + γ (1 − terminated) V(s') for one or several V(s'), ``[B, V]``.

    :param batch: a sample of a replay memory; its rewards are sums over several steps if it has discounts of its own
    :param gamma: γ, used where it has none
    :param next_values: V(s'), ``[B, V]``, or ``[V]`` if they are the same in all rows
    """
    discounts = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values
