"""
Continue an episode by replaying it, in environments whose state cannot be read, such as Box2D's.

What is needed is recorded while the environment runs: its state before the last reset, the arguments of that reset, and the
actions since then.
"""

import copy
import types
import zlib
from typing import Any, NamedTuple

import numpy as np

from sb3_pgx.checkpoints.object_graph import RECORDER_ATTRIBUTE, Graph, put, take


class Episode(NamedTuple):
    """An episode so far: how it was reset, the actions, and a checksum of all that was returned, which a replay must have."""

    before: Graph
    reset_arguments: dict[str, Any]
    actions: list[Any]
    checksum: int


class EpisodeRecorder:
    """
    Records the running episode of an environment. It takes the place of the environment's ``reset`` and ``step``.

    :param env: innermost environment
    """

    def __init__(self, env: Any):
        self.env = env
        self.episode: Episode | None = None  # None: the environment has not been reset since the recorder was made
        setattr(env, RECORDER_ATTRIBUTE, self)
        env.reset, env.step = self.reset, self.step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None, **others: Any) -> Any:
        """Reset the environment. Arguments are those of ``gymnasium.Env.reset``, and what else the environment takes."""
        before = take({"env": self.env})
        given = {"seed": seed, "options": options, **others}
        arguments = {name: value for name, value in given.items() if value is not None}
        result = type(self.env).reset(self.env, **arguments)
        self.episode = Episode(before, copy.deepcopy(arguments), [], _checksum(result[0], 0))
        return result

    def step(self, action: Any) -> Any:
        """Step the environment. Arguments are those of ``gymnasium.Env.step``."""
        if self.episode is None:
            return type(self.env).step(self.env, action)
        self.episode.actions.append(copy.deepcopy(action))
        result = type(self.env).step(self.env, action)
        self.episode = self.episode._replace(checksum=_checksum(result[:4], self.episode.checksum))
        return result

    def replay(self, episode: Episode) -> bool:
        """
        Reset the environment as it was reset then, and repeat the actions.

        :param episode: recorded by another process
        :return: whether the environment has returned the same observations and rewards
        """
        put(episode.before, {"env": self.env})
        self.reset(**episode.reset_arguments)
        for action in episode.actions:
            self.step(action)
        return self.episode is not None and self.episode.checksum == episode.checksum


def recorder_of(env: Any) -> EpisodeRecorder | None:
    """Return the recorder of an innermost environment, if it has one."""
    recorder = vars(env).get(RECORDER_ATTRIBUTE)
    return recorder if isinstance(recorder, EpisodeRecorder) else None


def can_be_replayed(env: Any) -> bool:
    """Return whether ``reset`` and ``step`` are the class's own methods, which a recorder can replace."""
    return all(isinstance(getattr(type(env), name, None), types.FunctionType) for name in ("reset", "step"))


def _checksum(values: Any, before: int) -> int:
    """Continue a checksum (CRC-32) with arrays and numbers, of which there may be dictionaries and tuples."""
    if isinstance(values, dict | tuple | list):
        for value in values.values() if isinstance(values, dict) else values:
            before = _checksum(value, before)
        return before
    return zlib.crc32(np.asarray(values).tobytes(), before)
