"""What an environment did, as arrays, and what can be said of them in a sentence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces


@dataclass(frozen=True)
class DryRun:
    """
    What an environment did, T steps of N copies, time first.

    Observations are a dictionary whatever the space: of its keys for a Dict, of ``""`` otherwise.
    ``next_observations[t]`` came of the action at t: at the end of an episode the final observation, not the next episode's
    first one.
    """

    observation_spaces: dict[str, spaces.Space]
    observations: dict[str, np.ndarray]  # [T, N, *obs], with the dtype that the environment gave them
    next_observations: dict[str, np.ndarray]  # [T, N, *obs]
    rewards: np.ndarray  # [T, N]
    terminated: np.ndarray  # [T, N], boolean
    truncated: np.ndarray  # [T, N], boolean
    starts_at_reset: bool = True  # otherwise the first episode of each copy began before the record
    resets: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None = None  # observations of two with the same seed
    error: str | None = None  # why it ended early

    @property
    def ends(self) -> np.ndarray:
        """True where an episode ended, ``[T, N]``."""
        return self.terminated | self.truncated

    def episode_lengths(self) -> np.ndarray:
        """Steps of each episode that the record saw from its start to its end, ``[E]``."""
        first = 0 if self.starts_at_reset else 1
        return np.concatenate([np.diff(ends.nonzero()[0], prepend=-1)[first:] for ends in self.ends.T]).astype(int)

    def returns(self, gamma: float) -> np.ndarray:
        """Discounted, of each step, as far as the record goes, ``[T, N]``; a reward that is not finite counts as 0."""
        running, returns = np.zeros(self.rewards.shape[1]), np.zeros(self.rewards.shape)
        rewards = np.where(np.isfinite(self.rewards), self.rewards, 0.0)
        for t in reversed(range(len(returns))):
            running = returns[t] = rewards[t] + gamma * np.where(self.ends[t], 0.0, running)
        return returns

    def pairs(self) -> Iterator[tuple["Part", "Part"]]:
        """The observations before and after each action, key by key."""
        for key, space in self.observation_spaces.items():
            yield Part(key, space, self.observations[key]), Part(key, space, self.next_observations[key])

    def parts(self) -> Iterator["Part"]:
        """The same, one after the other."""
        for pair in self.pairs():
            yield from pair


@dataclass(frozen=True)
class Part:
    """One array of observations, ``[T, N, *obs]``, with its key and its space."""

    key: str
    space: spaces.Space
    values: np.ndarray

    @property
    def name(self) -> str:
        """How a sentence calls it."""
        return f"observation[{self.key!r}]" if self.key else "observation"

    @property
    def is_image(self) -> bool:
        """Whether it is of pictures: bytes in two dimensions or more."""
        return isinstance(self.space, spaces.Box) and self.space.dtype == np.uint8 and len(self.space.shape) >= 2

    @property
    def flat(self) -> np.ndarray:
        """The entries of all observations, ``[T * N, D]``; a number has one."""
        n_steps, n_envs, *shape = self.values.shape
        return self.values.reshape(n_steps * n_envs, math.prod(shape))

    def bounds(self) -> tuple[Any, Any] | None:
        """Least and largest value of each entry, ``[D]`` or a number, where the space has them."""
        if isinstance(self.space, spaces.Box):
            return self.space.low.ravel(), self.space.high.ravel()
        if isinstance(self.space, spaces.Discrete):
            return self.space.start, self.space.start + self.space.n - 1
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.start.ravel(), (self.space.start + self.space.nvec - 1).ravel()
        return (0, 1) if isinstance(self.space, spaces.MultiBinary) else None

    def first(self, bad: np.ndarray) -> tuple[str, int]:
        """
        :param bad: which entries are, ``[T * N, D]``
        :return: a sentence that names the first of them, its value and its step; and its number among D
        """
        row, entry = np.argwhere(bad)[0]
        step, copy = divmod(int(row), self.values.shape[1])
        where = f"step {step}" + (f" of environment {copy}" if self.values.shape[1] > 1 else "")
        return f"{self.entry(int(entry))} is {in_digits(self.flat[row, entry])} at {where}", int(entry)

    def entry(self, number: int) -> str:
        """How a sentence calls one of its D entries."""
        return self.name + "".join(f"[{i}]" for i in np.unravel_index(number, self.values.shape[2:]))


def in_digits(number: Any) -> str:
    """A number with as many digits as tell it from its neighbours of the same type."""
    return f"{number:g}" if float(f"{number:g}") == number or number != number else str(number)
