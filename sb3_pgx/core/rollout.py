"""Data that the stages pass on: a rollout, ``[T, N, ...]`` tensors with time first, and batches of its rows.

A rollout passes through three types. Collecting makes a :class:`CollectedRollout`, evaluating makes an
:class:`EvaluatedRollout` of it, and estimating a :class:`Rollout`, from which batches are made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_pgx.core.sequences import begins_of, pack

Observations = Tensor | dict[str, Tensor]
Memory = dict[str, Tensor]  # of a recurrent policy, see sb3_pgx.core.recurrent_evaluation
SelfRows = TypeVar("SelfRows", bound="Rows")
SelfRollout = TypeVar("SelfRollout", bound="CollectedRollout")


class PolicyInputs(NamedTuple):
    """What a policy acts on in B rows."""

    observations: Observations  # [B, *obs]
    action_masks: Tensor | None = None  # [B, M], which actions are valid, boolean; None: all of them
    memory: Memory | None = None  # of a recurrent policy, whose rows are in packed order: sizes and states of the sequences


@dataclass
class CollectedRollout:
    """
    Data of a rollout after collection: what the environments returned, and the actions.

    ``truncated`` is true where the environment said so (``TimeLimit.truncated``), ``terminated`` where the episode ended
    otherwise. ``valid`` is false in rows that must not count. ``rewards`` are as the environment returned them. The K
    final observations belong to the truncated rows, in the order of ``truncated.nonzero()``.
    """

    observations: Observations  # [T, N, *obs]
    actions: Tensor  # [T, N, action_dim]
    rewards: Tensor  # [T, N]
    terminated: Tensor  # [T, N], boolean
    truncated: Tensor  # [T, N], boolean
    valid: Tensor  # [T, N], boolean
    episode_starts: Tensor  # [T, N], boolean
    final_observations: Observations | None  # [K, *obs]; None: no episode was truncated
    last_observations: Observations  # [N, *obs], after the last row
    # What was evaluated during collection: values and log π of a row, [N] each, and the value of a final observation.
    known_rows: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    known_finals: dict[int, float] = field(default_factory=dict)
    action_masks: Tensor | None = None  # [T, N, M], boolean; None: all actions are valid
    # For a critic whose V depends on them: masks of the last observations, [N, M], and of the final ones, [K, M].
    last_masks: Tensor | None = None
    final_masks: Tensor | None = None
    # States of a recurrent policy before each row, not yet reset where an episode starts, and after the last row,
    # [T + 1, N, layers, H]. Until the rollout is evaluated, only those before the first row.
    memory: Memory | None = None

    @property
    def inputs(self) -> PolicyInputs:
        """What the policy acted on, ``[T, N, ...]``."""
        return PolicyInputs(self.observations, self.action_masks)

    @property
    def ends(self) -> Tensor:
        """Whether an episode ended in each row, ``[T, N]``."""
        return self.terminated | self.truncated

    @property
    def shape(self) -> tuple[int, int]:
        """T and N: the number of steps and of environments."""
        return self.rewards.shape[0], self.rewards.shape[1]

    @cached_property
    def complete(self) -> bool:
        """Whether all rows are valid."""
        return bool(self.valid.all())

    @property
    def n_valid(self) -> int:
        """Number of valid rows."""
        return self.valid.numel() if self.complete else int(self.valid.sum())

    def valid_rows(self) -> Tensor:
        """Return the indices of the valid rows, environment after environment as SB3 flattens them, ``[R]``."""
        places = th.arange(self.valid.numel(), device=self.valid.device).view_as(self.valid)
        rows = flatten_by_environment(places)
        return rows if self.complete else rows[flatten_by_environment(self.valid)]

    def selected(self, index: Tensor, begins: Tensor | None = None) -> "Selection":
        """
        Select rows. For a recurrent policy, they are cut into sequences, and put into packed order.

        :param index: rows by their place t N + n, ``[R]``
        :param begins: where a sequence begins in addition to the starts of episodes and to rows that do not continue the one
            before, ``[R]``; ``None``: nowhere
        """
        if self.memory is None:
            return Selection(index)
        cut = begins_of(index, self.episode_starts)
        packing = pack(cut if begins is None else cut | begins.to(cut.device))
        index = index[packing.order.to(index.device)]
        firsts = index[: int(packing.sizes[0])]
        at_start = self.episode_starts.flatten()[firsts, None, None]

        def before(states: Tensor) -> Tensor:
            flat = states.flatten(end_dim=1)  # [(T + 1) N, layers, H], or only the first row: later sequences are at a start
            return th.where(at_start, 0.0, flat.index_select(0, firsts.clamp(max=len(flat) - 1)))

        return Selection(index, {"sizes": packing.sizes, **map_tensors(before, self.memory)})

    def evaluated(
        self, values: Tensor, log_prob: Tensor, next_values: Tensor, last_values: Tensor, distribution: Tensor | None = None
    ) -> "EvaluatedRollout":
        """
        Return the rollout with what an :class:`EvaluatedRollout` has in addition. It shares all else, attributes that a
        subclass of an algorithm has set included.
        """
        added = dict(values=values, log_prob=log_prob, next_values=next_values, last_values=last_values)
        return _grown(EvaluatedRollout, self, **added, distribution=distribution)


@dataclass(kw_only=True)
class EvaluatedRollout(CollectedRollout):
    """A rollout with values, log-probabilities and distributions of the policy that collected it."""

    values: Tensor  # V(s_t), [T, N]
    log_prob: Tensor  # log π(a_t|s_t), [T, N]
    next_values: Tensor  # V(s_{t+1}), [T, N]; of the final observation where truncated, 0 where terminated
    last_values: Tensor  # V of the last observations, [N]
    distribution: Tensor | None = None  # packed parameters of π(·|s_t), if the objective reads them, [T, N, K]
    behaviour: Tensor | None = None  # the same numbers, kept for diagnostics only and not part of batches

    def estimated(self, advantages: Tensor, returns: Tensor) -> "Rollout":
        """Return the rollout with advantages and returns, ``[T, N]`` each; it shares all else."""
        return _grown(Rollout, self, advantages=advantages, returns=returns)


@dataclass(kw_only=True)
class Rollout(EvaluatedRollout):
    """A complete rollout, which an update learns from."""

    advantages: Tensor  # [T, N]
    returns: Tensor  # [T, N]

    def rows(self, index: Tensor | None = None, begins: Tensor | None = None) -> "Batch":
        """
        Return rows of the rollout as a batch. For a recurrent policy, they are in packed order.

        :param index: rows by their place t N + n, such as those of :meth:`valid_rows`; ``None``: all of them, without a copy
        :param begins: as in :meth:`selected`
        """
        if index is None and self.memory is None:
            return self.batch(None)
        return self.batch(self.selected(self.valid_rows() if index is None else index, begins))

    def batch(self, selection: "Selection | None") -> "Batch":
        """
        Return selected rows as a batch.

        :param selection: result of :meth:`selected`; ``None``: all rows, without a copy
        """
        index, memory = (None, None) if selection is None else selection

        def pick(values: Tensor) -> Tensor:
            flat = values.flatten(end_dim=1)
            return flat if index is None else flat.index_select(0, index)

        return Batch(
            observations=map_tensors(pick, self.observations),
            actions=pick(self.actions),
            values=pick(self.values),
            log_prob=pick(self.log_prob),
            advantages=pick(self.advantages),
            returns=pick(self.returns),
            distribution=None if self.distribution is None else pick(self.distribution),
            action_masks=None if self.action_masks is None else pick(self.action_masks),
            memory=memory,
        )


class Selection(NamedTuple):
    """Rows of a rollout that make up a batch."""

    rows: Tensor  # [R], rows by their place t N + n; in packed order for a recurrent policy
    memory: Memory | None = None  # sizes and states of its sequences


def _grown(kind: type[SelfRollout], rollout: CollectedRollout, **added: Any) -> SelfRollout:
    grown = kind.__new__(kind)
    vars(grown).update(vars(rollout), **added)
    return grown


@dataclass
class Rows(ABC):
    """Rows that a gradient step learns from: fields that are tensors, dictionaries of tensors, or ``None``."""

    observations: Observations
    alike = True  # whether batches of an epoch with as many rows have the same memory layout

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        parts: list[Tensor] = []
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, dict):
                parts += value.values()
            elif value is not None:
                parts.append(value)
        return parts

    def replaced(self: SelfRows, tensors: Sequence[Tensor]) -> SelfRows:
        """Return rows of the same structure with other tensors, in the order of :meth:`tensors`."""
        left = iter(tensors)
        parts: list[Any] = []
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, dict):
                parts.append({key: next(left) for key in value})
            else:
                parts.append(None if value is None else next(left))
        return type(self)(*parts)

    def split_with(self: SelfRows, part: Callable[[Tensor], Sequence[Tensor]]) -> Iterator[SelfRows]:
        """Split every tensor with ``part``, and yield the pieces as rows."""
        for parts in zip(*map(part, self.tensors()), strict=True):
            yield self.replaced(parts)

    def with_observations(self: SelfRows, function: Callable[[Observations], Observations]) -> SelfRows:
        """Return the same rows with ``function`` applied to the observations."""
        return replace(self, observations=function(self.observations))

    def for_graph(self: SelfRows) -> SelfRows:
        """Return the same rows for a compiled graph: in tensors of few different shapes, and of types that it reads fast."""
        return self

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    def suspects(self) -> dict[str, Tensor]:
        """Return tensors, by name, that may be to blame for a loss that is not finite."""
        return {}


@dataclass
class Batch(Rows):
    """Rows of a rollout, as an objective reads them. Values and log-probabilities are those of the behaviour policy."""

    observations: Observations  # [B, *obs]
    actions: Tensor  # [B, action_dim]
    values: Tensor  # [B]
    log_prob: Tensor  # [B]
    advantages: Tensor  # [B]
    returns: Tensor  # [B]
    distribution: Tensor | None = None  # [B, K], packed parameters of the action distribution
    action_masks: Tensor | None = None  # [B, M], boolean or bytes
    memory: Memory | None = None  # of a recurrent policy: sizes and states of the sequences

    @property
    def inputs(self) -> PolicyInputs:
        """What the policy acted on."""
        return PolicyInputs(self.observations, self.action_masks, self.memory)

    def __len__(self) -> int:
        return len(self.actions)

    def suspects(self) -> dict[str, Tensor]:
        """Return tensors, by name, that may be to blame for a loss that is not finite."""
        return {"advantages": self.advantages, "returns": self.returns}

    def for_graph(self) -> "Batch":
        """
        Return the same rows, with masks as bytes. The sizes and the states of a recurrent policy's sequences
        are filled up to as many rows.
        """
        masks, memory = self.action_masks, self.memory
        if masks is None and memory is None:
            return self
        return replace(
            self,
            action_masks=None if masks is None else masks.view(th.uint8),
            memory=None if memory is None else in_fixed_shapes(memory, len(self)),
        )

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield consecutive batches of ``size`` rows, as views; the last one may be smaller."""
        return self.split_with(lambda x: x.split(size))


def in_fixed_shapes(memory: Memory, n_rows: int) -> Memory:
    """Return the memory of a batch of so many rows, with sizes and states filled up to as many."""
    filled = map_tensors(lambda x: _filled_up(x, n_rows), memory)
    return {"padded_sizes": filled.pop("sizes"), **filled}


def _filled_up(x: Tensor, n_rows: int) -> Tensor:
    """Return a tensor with zeros in further rows."""
    filled = x.new_zeros(n_rows, *x.shape[1:])
    filled[: len(x)] = x
    return filled


class OwnBatch(Batch):
    """A batch from a user's own buffer class. Batches of one epoch may differ in memory layout."""

    alike = False


def flatten_by_environment(values: Tensor) -> Tensor:
    """Reshape ``[T, N, ...]`` to ``[N * T, ...]``, environment after environment, as SB3 does."""
    return values.transpose(0, 1).flatten(end_dim=1)


def map_tensors(function, values):  # type: ignore[no-untyped-def]  # one tensor, a dictionary of them, or PolicyInputs
    """Apply ``function`` to a tensor or array, or to each one in a dictionary or in :class:`PolicyInputs`."""
    if isinstance(values, PolicyInputs):
        return PolicyInputs._make(part if part is None else map_tensors(function, part) for part in values)
    return {k: function(v) for k, v in values.items()} if isinstance(values, dict) else function(values)


def as_policy_input(actions: Tensor, action_space: spaces.Space) -> Tensor:
    """Return stored actions ``[B, action_dim]`` in the type and shape that SB3's policies evaluate."""
    return actions.long().flatten() if isinstance(action_space, spaces.Discrete) else actions.float()
