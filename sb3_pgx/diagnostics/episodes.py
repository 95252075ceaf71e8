"""Follow what the environments return during a run: rewards, the ends of episodes, and the range of the observations."""

from collections import deque
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from sb3_pgx.core.rollout import Observations, Rollout
from sb3_pgx.diagnostics.update_metrics import Measured, summary_metrics

WINDOW = 100  # episodes that the share of unflagged time limits covers
MIN_EPISODES = 10  # fewer episodes do not show whether there is a time limit
UNREAD_STEPS = 1000  # steps of rollouts that are collected before they are read together


class EpisodeTracker:
    """
    Follow the rewards and episodes of the training environments, step by step or rollout by rollout.

    :param n_envs: number of environments, N
    """

    def __init__(self, n_envs: int):
        self._rewards: list[np.ndarray] = []
        self._unread: list[tuple[Tensor, ...]] = []  # rewards and flags of each rollout, [T, N] each
        self._steps = 0
        self._begun = [0] * n_envs  # step after which the current episode of each environment began
        self._longest = 0
        self._ended: deque[tuple[int, bool]] = deque(maxlen=WINDOW)  # length of each episode, and whether it was truncated

    def start(self) -> None:
        """Begin a rollout: forget the rewards of the one before."""
        self._rewards.clear()

    def step(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Add a step of all environments.

        :param rewards: rewards of the step, ``[N]``
        :param dones: whether the step ended an episode, ``[N]``
        :param infos: the N info dictionaries, with ``TimeLimit.truncated`` for truncated episodes
        """
        self._rewards.append(rewards.copy())
        self._steps += 1
        if np.count_nonzero(dones):
            for i in map(int, np.flatnonzero(dones)):
                self._end(self._steps, i, bool(infos[i].get("TimeLimit.truncated", False)))

    def rollout(self, rollout: Rollout) -> None:
        """
        Add all steps of a rollout of this package's algorithms.

        :param rollout: steps that are not valid, in environments that wait for others, do not count
        """
        self._unread.append((rollout.rewards, rollout.valid, rollout.terminated, rollout.truncated, rollout.episode_starts))
        if sum(len(rewards) for rewards, *_ in self._unread) >= UNREAD_STEPS:
            self._read_rollouts()

    def _read_rollouts(self) -> None:
        """Read the collected rollouts together: reading one of 5 steps takes as long as reading one of 500."""
        rewards, valid, terminated, truncated, starts = (th.cat(x).numpy(force=True) for x in zip(*self._unread, strict=True))
        last = len(self._unread[-1][0])
        self._rewards = [rewards[-last:][valid[-last:]]]
        self._unread.clear()
        ends = (terminated | truncated) & valid
        for t, i in np.argwhere(starts | ends).tolist():
            if starts[t, i]:
                self._begun[i] = self._steps + t
            if ends[t, i]:
                self._end(self._steps + t + 1, i, bool(truncated[t, i]))
        self._steps += len(ends)

    def _end(self, step: int, i: int, truncated: bool) -> None:
        length = step - self._begun[i]
        self._longest = max(self._longest, length)
        self._ended.append((length, truncated))
        self._begun[i] = step

    def read(self) -> Measured:
        """
        Return a summary of the last rollout's rewards, and the share of unflagged time limits.

        An episode counts as an unflagged time limit if it was as long as the longest episode so far and not truncated, as at
        a time limit that the environment reports as a termination.
        """
        if self._unread:
            self._read_rollouts()
        rewards = th.from_numpy(np.concatenate(self._rewards, axis=None).astype(np.float64))
        measured: Measured = {name: float(x) for name, x in summary_metrics(reward=rewards).items()}
        measured["reward_size"] = rewards.abs().max().item()
        return measured | self.read_time_limits()

    def read_time_limits(self) -> Measured:
        """Return the share of unflagged time limits, if there were enough episodes."""
        if len(self._ended) >= MIN_EPISODES and self._longest > 1:
            at_limit = [length == self._longest and not flagged for length, flagged in self._ended]
            return {"unflagged_time_limits": sum(at_limit) / len(at_limit)}
        return {}


class ObservationRange:
    """Track the smallest and the largest value of each entry of the observations; images are ignored."""

    def __init__(self) -> None:
        self._low: list[Tensor] = []
        self._high: list[Tensor] = []

    def update(self, observations: Observations) -> Measured:
        """
        Add the observations of a rollout.

        :param observations: observations, ``[B, *obs]``
        :return: the largest absolute value among them, and the share of the entries that have never changed so far
        """
        parts = observations.values() if isinstance(observations, dict) else [observations]
        floating = [x.flatten(start_dim=1) for x in parts if x.is_floating_point()]
        if not floating:
            return {}
        low, high = [x.amin(dim=0) for x in floating], [x.amax(dim=0) for x in floating]
        self._low = [th.minimum(a, b) for a, b in zip(self._low or low, low, strict=True)]
        self._high = [th.maximum(a, b) for a, b in zip(self._high or high, high, strict=True)]
        return {
            "observation_max": th.cat([*low, *high]).abs().max(),
            "constant_observations": (th.cat(self._low) == th.cat(self._high)).float().mean(),
        }
