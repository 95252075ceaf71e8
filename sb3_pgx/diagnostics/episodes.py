"""What the environments return: rewards as they are, how episodes end, and the range of the observations."""

from collections import deque
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from sb3_pgx.core.rollout import Observations, Rollout
from sb3_pgx.diagnostics.measures import Measured, scales

WINDOW = 100  # episodes
ENOUGH = 10  # episodes, of which something can be said
UNREAD_STEPS = 1000  # of rollouts that wait to be read


class EpisodeWatch:
    """Follows the episodes of the training environments, step by step or rollout by rollout."""

    def __init__(self, n_envs: int):
        self._rewards: list[np.ndarray] = []
        self._unread: list[tuple[Tensor, ...]] = []  # rollouts: rewards and flags, [T, N] each
        self._steps = 0
        self._begun = [0] * n_envs  # after which step the episode under way began
        self._longest = 0
        self._ended: deque[tuple[int, bool]] = deque(maxlen=WINDOW)  # length, and whether it was flagged as truncated

    def start(self) -> None:
        """A rollout begins."""
        self._rewards.clear()

    def step(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        :param rewards: ``[N]``
        :param dones: ``[N]``
        :param infos: N of them
        """
        self._rewards.append(rewards.copy())
        self._steps += 1
        if np.count_nonzero(dones):
            for i in map(int, np.flatnonzero(dones)):
                self._end(self._steps, i, bool(infos[i].get("TimeLimit.truncated", False)))

    def rollout(self, rollout: Rollout) -> None:
        """All steps of a rollout of this package's pipeline; episodes of environments that wait for others do not count."""
        self._unread.append((rollout.rewards, rollout.valid, rollout.terminated, rollout.truncated, rollout.episode_starts))
        if sum(len(rewards) for rewards, *_ in self._unread) >= UNREAD_STEPS:
            self._read_rollouts()

    def _read_rollouts(self) -> None:
        """Many at once: reading one of 5 steps takes as long as reading one of 500."""
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
        Scales of the rollout's rewards, and the share of the last 100 episodes that ended unflagged at exactly the length of
        the longest so far, as they do at a time limit that the environment reports as a termination.
        """
        if self._unread:
            self._read_rollouts()
        rewards = th.from_numpy(np.concatenate(self._rewards, axis=None).astype(np.float64))
        measured: Measured = {name: float(x) for name, x in scales(reward=rewards).items()}
        measured["reward_size"] = rewards.abs().max().item()
        if len(self._ended) >= ENOUGH and self._longest > 1:
            at_limit = [length == self._longest and not flagged for length, flagged in self._ended]
            measured["unflagged_time_limits"] = sum(at_limit) / len(at_limit)
        return measured


class ObservationRange:
    """The smallest and the largest that each entry of the observations has been; images are left out."""

    def __init__(self) -> None:
        self._low: list[Tensor] = []
        self._high: list[Tensor] = []

    def see(self, observations: Observations) -> Measured:
        """
        :param observations: of a rollout, ``[B, *obs]``
        :return: the largest number among them, and the share of the entries that have never changed so far
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
