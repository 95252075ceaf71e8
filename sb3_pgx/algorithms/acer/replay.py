"""ACER's replay memory: the newest steps of each environment, sampled as segments of consecutive steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.algorithms.acer.masked_observations import are_masked
from sb3_pgx.core.buffer_arrays import paired_arrays
from sb3_pgx.core.checks import Array, check_counts
from sb3_pgx.core.rollout import map_tensors

COLUMNS = ("actions", "behaviour", "rewards", "terminated", "truncated")


@dataclass
class Record:
    """
    One rollout as the memory stores it, in NumPy arrays. The K final observations belong to the truncated rows, in the order
    of ``truncated.nonzero()``.
    """

    observations: Array  # [T, N, *obs]
    following: Array  # observations after the last row, [N, *obs]
    actions: np.ndarray  # [T, N, action_dim]
    behaviour: np.ndarray  # packed parameters of the distribution that acted, [T, N, P]
    rewards: np.ndarray  # [T, N]
    terminated: np.ndarray  # [T, N], boolean
    truncated: np.ndarray  # [T, N], boolean
    final_observations: Array | None  # [K, *obs]; None: no episode was truncated


@dataclass
class Sample:
    """
    U batches of M segments of k steps; without U, a single batch. The last observations are those after a segment's last step.
    If that step ended an episode, they belong to the next one and must be ignored.
    """

    observations: Array  # [U, k + 1, M, *obs]
    actions: np.ndarray  # [U, k, M, action_dim]
    behaviour: np.ndarray  # [U, k, M, P]
    rewards: np.ndarray  # [U, k, M]
    terminated: np.ndarray  # [U, k, M], boolean
    truncated: np.ndarray  # [U, k, M], boolean
    final_observations: Array | None  # [K, *obs], in the order of truncated.nonzero(); None: no row is truncated


class SegmentReplay:
    """
    A ring buffer over time. Its arrays are allocated when the first rollout arrives.

    Rows are ordered by step, then by environment, so a row's successor in time is N rows later. There is room for one more
    step than is held: the next step to be written already has its observations, those that followed the newest step.

    :param buffer_size: transitions to hold, over all environments; rounded down to a multiple of ``n_envs``
    :param segment_length: steps k of a segment; may be assigned later, up to the steps that the ring holds
    :param observation_space: observation space of one environment
    :param action_space: action space of one environment
    :param n_envs: N, number of environments
    :raises ValueError: an argument is not a positive whole number, or the ring is shorter than a segment
    """

    def __init__(
        self, buffer_size: int, segment_length: int, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int
    ):
        check_counts(buffer_size=buffer_size, segment_length=segment_length, n_envs=n_envs)
        self.max_steps = buffer_size // n_envs
        if self.max_steps < segment_length:
            raise ValueError(
                f"buffer_size={buffer_size} holds {self.max_steps} steps of each of {n_envs} environments, fewer than one "
                f"segment of {segment_length} steps: raise it to {segment_length * n_envs} or more"
            )
        self.segment_length, self.n_envs = segment_length, n_envs
        self.observation_space, self.action_space = observation_space, action_space
        self.reset()

    def reset(self) -> None:
        """Discard all transitions and release the arrays' memory."""
        self.size = 0  # transitions held, over all environments
        self.raw: bool | None = None  # whether they are unnormalised; None: nothing is held
        self._head = 0  # the row to be written next
        self._observations: Array = {}  # [(max_steps + 1) * N, *obs]
        self._columns: dict[str, np.ndarray] = {}  # by name, [(max_steps + 1) * N, ...]
        self._final_observations: dict[int, Array] = {}  # by row, of exactly the truncated rows

    @property
    def masked(self) -> bool | None:
        """Whether the transitions held have action masks; ``None``: nothing is held."""
        return None if self.raw is None else are_masked(self._observations)

    def check_masked(self, masked: bool) -> None:
        """
        Check that new transitions have action masks exactly if those held have some.

        :param masked: whether new transitions have action masks
        :raises ValueError: they differ
        """
        if self.masked in (None, masked):
            return
        held, new = ("with action masks" if kind else "without action masks" for kind in (self.masked, masked))
        raise ValueError(
            f"the replay memory holds {self.size} transitions {held}, and new ones would be stored {new}: keep the "
            "environments and learn(use_masking=…) as before, or empty the memory with model.replay_buffer.reset()"
        )

    def __len__(self) -> int:
        """Return how many different segments can be sampled, over all environments."""
        return max(self.size - (self.segment_length - 1) * self.n_envs, 0)

    def add(self, record: Record, raw: bool) -> Callable[[], None]:
        """
        Write a rollout over the oldest rows.

        If an environment does not continue from its newest row, because it was reset or the memory comes from a file, that row
        becomes truncated, unless it ended an episode anyway.

        :param record: at least one step; only the newest steps are kept if it is longer than the ring
        :param raw: whether observations and rewards are unnormalised (before ``VecNormalize``)
        :return: function that removes the rollout and restores what it overwrote; valid until the next ``add``
        :raises ValueError: the transitions held differ in ``raw``, or in whether they have action masks; the memory is
            unchanged
        """
        if self.raw not in (None, raw):
            held, new = ("as the environment gave them" if kind else "normalised" for kind in (self.raw, raw))
            raise ValueError(
                f"the replay memory holds {self.size} transitions {held}, and the new ones are {new}: they cannot be mixed. "
                "Continue as before, or empty the memory with model.replay_buffer.reset()."
            )
        self.check_masked(are_masked(record.observations))
        take_out = self.reset if self.raw is None else self._kept(record.rewards[-self.max_steps :].size)
        if self.raw is None:
            self._allocate(record)
            self.raw = raw
        else:
            self._mark_breaks(map_tensors(lambda x: x[0], record.observations))
        self._write(record)
        return take_out

    @property
    def segment_bytes(self) -> int:
        """Bytes of one segment, 0 before the first rollout."""
        return self.segment_length * sum(ring[0].nbytes for ring in self._rings())

    def sample(self, size: int | tuple[int, int], generator: np.random.Generator) -> Sample:
        """
        Draw segments uniformly over environments and first steps, with replacement.

        :param size: M, or (U, M)
        :param generator: random number generator
        :raises ValueError: fewer steps are held than a segment has
        """
        if not len(self):
            raise ValueError(
                f"the replay memory holds {self.size // self.n_envs} steps of each environment, fewer than one segment of "
                f"{self.segment_length}: add more rollouts before sampling"
            )
        first = generator.integers(len(self), size=size)[..., None, :]  # counted from the oldest row
        rows = self._head - self.size + first + self.n_envs * np.arange(self.segment_length + 1)[:, None]
        of_steps = rows[..., :-1, :]
        columns = {name: ring.take(of_steps, axis=0, mode="wrap") for name, ring in self._columns.items()}
        return Sample(
            observations=map_tensors(lambda ring: ring.take(rows, axis=0, mode="wrap"), self._observations),
            final_observations=self._stack_final(self._wrap(of_steps[columns["truncated"]])),
            **columns,
        )

    def check_fits(
        self, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int, segment_length: int
    ) -> None:
        """
        Check that a model can use this memory, which was loaded from a file.

        :param observation_space: the model's observation space
        :param action_space: the model's action space
        :param n_envs: the model's number of environments
        :param segment_length: the model's segment length
        :raises ValueError: a space or the number of environments differs, or the ring is shorter than a segment
        """
        for what, held, wanted in (
            ("observation space", self.observation_space, observation_space),
            ("action space", self.action_space, action_space),
            ("number of environments", self.n_envs, n_envs),
        ):
            if held != wanted:
                raise ValueError(
                    f"the replay memory was filled with the {what} {held}, and this model's is {wanted}: load it into a "
                    "model of the same environments, or start with an empty memory"
                )
        if self.max_steps < segment_length:
            raise ValueError(
                f"the replay memory has room for {self.max_steps} steps of each environment, fewer than this model's "
                f"segments of {segment_length} steps: shorten the segments, or start with an empty memory"
            )

    def _wrap(self, rows: np.ndarray) -> np.ndarray:
        return rows % ((self.max_steps + 1) * self.n_envs)

    def _rings(self) -> list[np.ndarray]:
        """Return all arrays of the memory, ``[(max_steps + 1) * N, ...]``."""
        observations = self._observations
        return [*self._columns.values(), *(observations.values() if isinstance(observations, dict) else [observations])]

    def _allocate(self, record: Record) -> None:
        """Allocate zeros: they take memory only once they are written, and compress well in a file."""

        def ring(values: np.ndarray) -> np.ndarray:
            return np.zeros(((self.max_steps + 1) * self.n_envs, *values.shape[2:]), values.dtype)

        self._observations = map_tensors(ring, record.observations)
        self._columns = {name: ring(getattr(record, name)) for name in COLUMNS}

    def _kept(self, n_rows: int) -> Callable[[], None]:
        """Copy all that writing ``n_rows`` rows changes, and return a function that restores it."""
        rows = self._wrap(self._head + np.arange(-self.n_envs, n_rows + self.n_envs))
        before = [(ring, ring[rows]) for ring in self._rings()]
        final = {int(row): self._final_observations[int(row)] for row in rows[self._columns["truncated"][rows]]}
        size, head = self.size, self._head

        def put_back() -> None:
            for row in rows.tolist():
                self._final_observations.pop(row, None)
            self._final_observations.update(final)
            for ring, values in before:
                ring[rows] = values
            self.size, self._head = size, head

        return put_back

    def _mark_breaks(self, observations: Array) -> None:
        """Mark the newest rows as truncated if their environments did not continue to ``observations``, ``[N, *obs]``."""
        following = map_tensors(lambda ring: ring[self._head : self._head + self.n_envs], self._observations)
        if all(map(np.array_equal, *zip(*paired_arrays(following, observations), strict=True))):
            return
        newest = self._wrap(self._head - self.n_envs + np.arange(self.n_envs))
        ended = self._columns["terminated"][newest] | self._columns["truncated"][newest]
        for env in (differ(following, observations) & ~ended).nonzero()[0]:
            self._columns["truncated"][newest[env]] = True
            self._final_observations[int(newest[env])] = copy_one(following, env)

    def _write(self, record: Record) -> None:
        newest = slice(-self.max_steps, None)
        n_rows = record.rewards[newest].size
        rows = self._wrap(self._head + np.arange(n_rows + self.n_envs))  # the last N rows get observations only
        for row in rows[self._columns["truncated"][rows]]:
            del self._final_observations[int(row)]
        self._columns["truncated"][rows] = False
        rows, after = rows[:n_rows], rows[n_rows:]
        for ring, values in paired_arrays(self._observations, record.observations):
            put(ring, self._head, values[newest].reshape(n_rows, *ring.shape[1:]))  # [T, N, ...] -> [T * N, ...]
        for ring, values in paired_arrays(self._observations, record.following):
            put(ring, after[0], values)
        for name, ring in self._columns.items():
            put(ring, self._head, getattr(record, name)[newest].reshape(n_rows, *ring.shape[1:]))
        truncated = rows[record.truncated[newest].ravel()]
        for index, row in enumerate(truncated, start=-len(truncated)):  # of a long rollout, the last ones
            self._final_observations[int(row)] = copy_one(record.final_observations, index)
        self._head = int(after[0])
        self.size = min(self.size + n_rows, self.max_steps * self.n_envs)

    def _stack_final(self, rows: np.ndarray) -> Array | None:
        found: list[Any] = [self._final_observations[row] for row in rows.tolist()]
        if not found:
            return None
        return {k: np.stack([f[k] for f in found]) for k in found[0]} if isinstance(found[0], dict) else np.stack(found)


def put(ring: np.ndarray, first: int, values: np.ndarray) -> None:
    """Write consecutive rows of a ring, wrapping around at its end."""
    n = len(ring) - first
    ring[first : first + len(values)] = values[:n]
    ring[: max(len(values) - n, 0)] = values[n:]


def differ(one: Array, other: Array) -> np.ndarray:
    """Return which environments' observations differ, boolean ``[N]``."""
    return np.any([(x != y).reshape(len(x), -1).any(axis=1) for x, y in paired_arrays(one, other)], axis=0)


def copy_one(observations: Any, index: int) -> Array:
    """Copy one of several observations; a view would keep all of them in memory."""
    return map_tensors(lambda values: values[index].copy(), observations)
