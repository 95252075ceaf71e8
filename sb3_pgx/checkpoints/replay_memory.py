"""The replay memory of an off-policy run in a checkpoint, and of a run that is resumed from it."""

import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import BaseBuffer, NStepReplayBuffer, ReplayBuffer


class _FirstRows(NamedTuple):
    """An array whose other rows are 0."""

    rows: np.ndarray
    length: int

    def complete(self) -> np.ndarray:
        array = np.zeros((self.length, *self.rows.shape[1:]), self.rows.dtype)
        array[: len(self.rows)] = self.rows
        return array


def reduced(buffer: ReplayBuffer) -> Any:
    """
    Return how to pickle a replay memory, as ``__reduce_ex__`` does, without the rows that are not filled yet: there may be a
    million of them.

    :param buffer: the memory
    """
    parts: Any = buffer.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    constructor, arguments, state, *_ = parts
    n = buffer.buffer_size if buffer.full else buffer.pos + 1  # the last one may hold an observation already
    return constructor, arguments, {name: _first_rows(x, n) for name, x in state.items()}, None, None, _set_state


def _first_rows(x: Any, n: int) -> Any:
    """Return the first rows of arrays of numbers whose others are 0, or else what is given."""
    if isinstance(x, dict):
        return {key: _first_rows(part, n) for key, part in x.items()}
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub" or x[n:].any():
        return x
    return _FirstRows(x[:n], len(x))


def _complete(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _complete(part) for key, part in x.items()}
    return x.complete() if isinstance(x, _FirstRows) else x


def _set_state(buffer: Any, state: dict[str, Any]) -> None:
    complete = _complete(state)
    if hasattr(buffer, "__setstate__"):
        buffer.__setstate__(complete)
    else:
        vars(buffer).update(complete)


def continue_memory(model: Any) -> None:
    """
    Give a replay memory of SB3's that was read from a checkpoint the device and the environments of the model.

    :param model: the resumed model; nothing happens without such a memory
    """
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, BaseBuffer):
        buffer.device = model.device
    if isinstance(buffer, HerReplayBuffer):  # whose pickle leaves the environments out
        buffer.set_env(model.env)


def cut_episodes_in_memory(model: Any) -> None:
    """
    Mark the last transitions of a replay memory as the ends of their episodes, because the next one does not follow them. That
    matters for memories whose samples depend on later steps: n-step returns, goals of hindsight, observations stored once.

    :param model: an off-policy model; nothing happens without such a memory
    """
    buffer = model.replay_buffer
    if isinstance(buffer, NStepReplayBuffer | HerReplayBuffer) or getattr(buffer, "optimize_memory_usage", False):
        end_episodes_in_memory(model)


def end_episodes_in_memory(model: Any) -> None:
    """
    Mark the last transitions of a replay memory of SB3's as the ends of their episodes, because the environments restart.

    :param model: the resumed model; nothing happens without such a memory
    """
    buffer = getattr(model, "replay_buffer", None)
    if not isinstance(buffer, ReplayBuffer) or not (buffer.full or buffer.pos > 0):
        return
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are truncated, which is what is wanted
            buffer.truncate_last_trajectory()
        return
    last = (buffer.pos - 1) % buffer.buffer_size
    if buffer.handle_timeout_termination:
        buffer.timeouts[last] = np.logical_or(
            buffer.timeouts[last], buffer.dones[last] == 0
        )  # terminated rows stay as they are
    buffer.dones[last] = True
