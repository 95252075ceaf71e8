"""A dry run: an environment is played with random actions, and everything it returns is kept as arrays."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_pgx.core.errors import type_and_text
from sb3_pgx.ops.returns import monte_carlo

MAX_BYTES = 2**26  # limit for the observations; with large images, a dry run is shorter
ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


@dataclass(frozen=True)
class DryRun:
    """
    What N copies of an environment returned in T steps.

    Observations are dictionaries for every space: by key for a Dict space, with the only key ``""`` otherwise.

    :param observation_spaces: space of each part of the observation
    :param observations: observations before each action, with the environment's own dtype, ``[T, N, *obs]``
    :param next_observations: observations after each action, ``[T, N, *obs]``; at the end of an episode its final observation,
        not the first one of the next episode
    :param rewards: rewards, ``[T, N]``
    :param terminated: whether the step terminated an episode, ``[T, N]``
    :param truncated: whether the step truncated an episode, ``[T, N]``
    :param starts_at_reset: whether the first step of each copy is the first of an episode
    :param resets: observations of two resets with the same seed, if they were made
    :param error: why the run ended early, if it did
    """

    observation_spaces: dict[str, spaces.Space]
    observations: dict[str, np.ndarray]
    next_observations: dict[str, np.ndarray]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    starts_at_reset: bool = True
    resets: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None = None
    error: str | None = None

    @property
    def ends(self) -> np.ndarray:
        """Whether each step ended an episode, ``[T, N]``."""
        return self.terminated | self.truncated

    def episode_lengths(self) -> np.ndarray:
        """Return the number of steps of each complete episode, ``[E]``."""
        first = 0 if self.starts_at_reset else 1
        return np.concatenate([np.diff(ends.nonzero()[0], prepend=-1)[first:] for ends in self.ends.T]).astype(int)

    def returns(self, gamma: float) -> np.ndarray:
        """
        Return the discounted return of each step, up to the end of its episode or of the dry run.

        :param gamma: discount factor
        :return: returns, ``[T, N]``; a reward that is not finite counts as 0
        """
        rewards = np.where(np.isfinite(self.rewards), self.rewards, 0.0).astype(np.float64)
        known, ends = th.from_numpy(rewards), th.from_numpy(self.ends)
        return monte_carlo(known, th.zeros_like(known), ends, gamma).numpy()

    def pairs(self) -> Iterator[tuple["ObservationPart", "ObservationPart"]]:
        """Yield the observations before and after each action, part by part."""
        for key, space in self.observation_spaces.items():
            yield ObservationPart(key, space, self.observations[key]), ObservationPart(key, space, self.next_observations[key])

    def parts(self) -> Iterator["ObservationPart"]:
        """Yield the observations before each action and those after it, part by part."""
        for pair in self.pairs():
            yield from pair


@dataclass(frozen=True)
class ObservationPart:
    """
    One part of the observations.

    :param key: key in a Dict space, or ``""``
    :param space: space of the part
    :param values: values of the part, ``[T, N, *obs]``
    """

    key: str
    space: spaces.Space
    values: np.ndarray

    @property
    def name(self) -> str:
        """Name of the part in messages, such as ``observation['image']``."""
        return f"observation[{self.key!r}]" if self.key else "observation"

    @property
    def is_image(self) -> bool:
        """Whether the part is an image: bytes with two dimensions or more."""
        return isinstance(self.space, spaces.Box) and self.space.dtype == np.uint8 and len(self.space.shape) >= 2

    @property
    def flat(self) -> np.ndarray:
        """The observations with flattened entries, ``[T * N, D]``; a single number has one entry."""
        n_steps, n_envs, *shape = self.values.shape
        return self.values.reshape(n_steps * n_envs, math.prod(shape))

    def bounds(self) -> tuple[Any, Any] | None:
        """Return the bounds of each entry, ``[D]`` or a number, or ``None`` if the space has none."""
        if isinstance(self.space, spaces.Box):
            return self.space.low.ravel(), self.space.high.ravel()
        if isinstance(self.space, spaces.Discrete):
            return self.space.start, self.space.start + self.space.n - 1
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.start.ravel(), (self.space.start + self.space.nvec - 1).ravel()
        return (0, 1) if isinstance(self.space, spaces.MultiBinary) else None

    def describe_first(self, bad: np.ndarray) -> tuple[str, int]:
        """
        Describe the first bad entry.

        :param bad: whether each entry is bad, ``[T * N, D]``
        :return: a clause with the entry, its value and its step; and the index of the entry among D
        """
        row, entry = np.argwhere(bad)[0]
        step, copy = divmod(int(row), self.values.shape[1])
        where = f"step {step}" + (f" of environment {copy}" if self.values.shape[1] > 1 else "")
        return f"{self.entry_name(int(entry))} is {format_number(self.flat[row, entry])} at {where}", int(entry)

    def entry_name(self, index: int) -> str:
        """Return the name of one of the D entries in messages, such as ``observation[2]``."""
        return self.name + "".join(f"[{i}]" for i in np.unravel_index(index, self.values.shape[2:]))


def format_number(number: Any) -> str:
    """Return a number with at least 6 digits, or as many as distinguish it from other numbers of its type."""
    return f"{number:g}" if float(f"{number:g}") == number or number != number else str(number)


def record_dry_run(env: gym.Env, steps: int, seed: int) -> DryRun:
    """
    Play an environment with random actions. An exception of the environment ends the dry run and is recorded in it.

    :param env: the environment
    :param steps: maximum number of steps; large observations reduce it
    :param seed: seed of the environment and of the actions
    """
    parts = _array_spaces(env.observation_space)
    rows: dict[str, list[Any]] = defaultdict(list)
    error, resets = None, None
    try:
        resets = _reset(env, parts, seed), _reset(env, parts, seed)
        env.action_space.seed(seed)
        observation, size = resets[1], sum(x.nbytes for x in resets[1].values())
        for _ in range(max(2, min(steps, MAX_BYTES // max(1, size)))):
            given, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            following = _arrays(given, parts)
            row = (observation, following, float(reward), bool(terminated), bool(truncated))
            for name, value in zip(("before", "after", "rewards", "terminated", "truncated"), row, strict=True):
                rows[name].append(value)
            observation = _reset(env, parts) if terminated or truncated else following
    except Exception as raised:  # the environment may do anything
        error = f"step {len(rows['rewards'])} of the dry run raised {type_and_text(raised)}"

    def stacked(name: str, dtype: Any) -> np.ndarray:
        return np.array(rows[name], dtype)[:, None]  # [T] -> [T, 1]

    def observations(name: str) -> dict[str, np.ndarray]:
        if not rows[name]:
            return {key: np.zeros((0, 1, *(space.shape or ())), space.dtype) for key, space in parts.items()}
        return {key: np.stack([x[key] for x in rows[name]])[:, None] for key in parts}  # [T, *obs] -> [T, 1, *obs]

    return DryRun(
        observation_spaces=parts,
        observations=observations("before"),
        next_observations=observations("after"),
        rewards=stacked("rewards", float),
        terminated=stacked("terminated", bool),
        truncated=stacked("truncated", bool),
        resets=resets,
        error=error,
    )


def unreadable_parts(space: spaces.Space) -> dict[str, spaces.Space]:
    """
    Return the parts of a dictionary's observations that no policy reads, such as texts.

    :param space: space of the observations
    """
    if not isinstance(space, spaces.Dict):
        return {}
    return {key: part for key, part in space.spaces.items() if not isinstance(part, ARRAY_SPACES)}


def _array_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the spaces of the parts of an observation that are arrays."""
    parts: dict[str, spaces.Space]
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces)
    elif isinstance(space, spaces.Tuple):
        parts = {str(i): part for i, part in enumerate(space.spaces)}
    else:
        parts = {"": space}
    return {key: part for key, part in parts.items() if isinstance(part, ARRAY_SPACES)}


def _reset(env: gym.Env, parts: dict[str, spaces.Space], seed: int | None = None) -> dict[str, np.ndarray]:
    return _arrays(env.reset(seed=seed)[0], parts)


def _arrays(observation: Any, parts: dict[str, spaces.Space]) -> dict[str, np.ndarray]:
    """Return a copy of each part, because an environment may reuse the array for the next observation."""
    arrays = {}
    for key, space in parts.items():
        part = observation if key == "" else observation[int(key) if isinstance(observation, tuple) else key]
        arrays[key] = np.array(part)
        if arrays[key].shape != space.shape:
            raise ValueError(
                f"the observation{f' {key!r}' if key else ''} has shape {arrays[key].shape}, but its space has {space.shape}"
            )
    return arrays
