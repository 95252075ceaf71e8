"""Adapter for a user's own rollout buffer class, which is filled and read as SB3 does it."""

import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pgx.core.mixed_spaces import is_mixed, stored_space
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.rollout import Batch, EvaluatedRollout, OwnBatch, Rollout, map_tensors


class CustomBuffer:
    """
    A user's own buffer, to which each row is added as SB3 adds it.

    :param buffer: the buffer, with SB3's ``reset``, ``add``, ``compute_returns_and_advantage`` and ``get``
    """

    def __init__(self, buffer: RolloutBuffer):
        self.wrapped = buffer

    def follow(self, recorder: Recorder, policy: ActorCriticPolicy, gamma: float) -> None:
        """Empty the buffer, and prepare for the rows of a new rollout; arguments as :meth:`RolloutView.follow`."""
        self.wrapped.reset()
        self._recorder, self._policy, self._gamma = recorder, policy, gamma

    def follow_policy(self, policy: ActorCriticPolicy) -> None:
        """Use another policy from now on to value final observations."""
        self._policy = policy

    def recorded(self) -> None:
        """Add the newest row, with γ V(final observation) in the rewards of truncated episodes."""
        recorder, t = self._recorder, self._recorder.size - 1
        rewards = recorder.rewards[t].copy()
        for index, value in recorder.final_values_in(t, self._policy):
            rewards[index] += self._gamma * value
        values, log_prob = recorder.known_rows[t]
        row = map_tensors(lambda x: x[t], recorder.observations)
        masks = {} if recorder.action_masks is None else {"action_masks": recorder.action_masks[t]}
        self.wrapped.add(row, recorder.actions[t], rewards, recorder.episode_starts[t], values[:, None], log_prob, **masks)

    def estimated(self, rollout: EvaluatedRollout, dones: np.ndarray) -> Rollout:
        """
        Let the buffer compute advantages and returns, and return the rollout with copies of them. They are NaN if the buffer
        does not keep them where SB3's does; the update reads what ``get`` yields.

        :param rollout: whose rows it holds
        :param dones: which episodes ended in the last row, ``[N]``
        """
        self.wrapped.compute_returns_and_advantage(last_values=rollout.last_values, dones=dones)
        return rollout.estimated(*(self._copied(name, rollout.values) for name in ("advantages", "returns")))

    def _copied(self, name: str, like: th.Tensor) -> th.Tensor:
        array = getattr(self.wrapped, name, None)
        if array is None or np.shape(array) != like.shape:
            return th.full_like(like, th.nan)
        return th.tensor(np.array(array), dtype=like.dtype, device=like.device)


def is_users_own(buffer_class: type[RolloutBuffer] | None) -> bool:
    """
    Return whether the user chose a buffer class. SB3 and sb3-contrib save their own classes with every model, so they do not
    count.
    """
    contribs = getattr(buffer_class, "__module__", None) == "sb3_contrib.common.maskable.buffers"
    return not contribs and buffer_class not in (None, RolloutBuffer, DictRolloutBuffer)


@contextmanager
def buffers_of_stored_actions(model: Any) -> Iterator[None]:
    """
    Within this context, SB3 makes the model's rollout buffer for the actions that it keeps: rows of numbers for a mixed
    action space, which SB3's buffers do not know.

    :param model: model whose ``rollout_buffer_class`` is replaced meanwhile
    """
    if not is_mixed(model.action_space):
        yield
        return
    default = DictRolloutBuffer if isinstance(model.observation_space, spaces.Dict) else RolloutBuffer
    buffer_class: Any = model.rollout_buffer_class or default

    def make(size: int, observation_space: spaces.Space, action_space: spaces.Space, **kwargs: Any) -> RolloutBuffer:
        return buffer_class(size, observation_space, stored_space(action_space), **kwargs)

    model.rollout_buffer_class = make
    try:
        yield
    finally:
        model.rollout_buffer_class = buffer_class


def check_keeps_masks(buffer: RolloutBuffer) -> None:
    """:raises ValueError: a user's own buffer does not take action masks"""
    parameters = inspect.signature(buffer.add).parameters.values()
    if not any(p.name == "action_masks" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(f"the environments mask actions, {_REMEDY.format(type(buffer).__name__)}")


_REMEDY = (
    "but {} does not keep action masks: derive it from sb3_contrib.common.maskable.buffers.MaskableRolloutBuffer, or pass "
    "learn(use_masking=False)"
)


def batches(buffer: RolloutBuffer, batch_size: int | None, masked: bool) -> Generator[Batch, None, None]:
    """
    Convert the samples that a user's own buffer yields to batches.

    :param buffer: the buffer, full
    :param batch_size: rows per batch; ``None``: all
    :param masked: whether the policy acted with action masks
    :raises ValueError: it did, and the samples have none
    """
    for samples in buffer.get(batch_size):
        if masked and getattr(samples, "action_masks", None) is None:
            raise ValueError(f"the policy acted with action masks, {_REMEDY.format(type(buffer).__name__)}")
        yield OwnBatch(
            observations=samples.observations,
            actions=samples.actions.reshape(len(samples.old_values), -1),
            values=samples.old_values,
            log_prob=samples.old_log_prob,
            advantages=samples.advantages,
            returns=samples.returns,
            action_masks=_masks_of(samples),
        )


def _masks_of(samples: Any) -> th.Tensor | None:
    """Return the action masks of samples, if the buffer keeps them as sb3-contrib's does."""
    masks = getattr(samples, "action_masks", None)
    return None if masks is None else masks.reshape(len(samples.old_values), -1).bool()
