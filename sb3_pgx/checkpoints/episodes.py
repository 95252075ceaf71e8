"""
Continue an episode by replaying it, in environments whose state cannot be read, such as Box2D's.

What is needed is recorded while the environment runs: its state before the last reset, the arguments of that reset, and the
actions since then.
"""

import copy
import types
from typing import Any, NamedTuple

import numpy as np

from sb3_pgx.checkpoints.object_graph import RECORDER_ATTRIBUTE, Graph, put, take


class Episode(NamedTuple):
    """An episode so far: how it was reset, the actions, and the last observation, by which a replay is checked."""

    before: Graph
    reset_arguments: dict[str, Any]
    actions: list[Any]
    observation: Any


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

    def reset(self, **arguments: Any) -> Any:
        """Reset the environment. Arguments are those of ``gymnasium.Env.reset``."""
        before = take({"env": self.env})
        result = type(self.env).reset(self.env, **arguments)
        self.episode = Episode(before, copy.deepcopy(arguments), [], copy.deepcopy(result[0]))
        return result

    def step(self, action: Any) -> Any:
        """Step the environment. Arguments are those of ``gymnasium.Env.step``."""
        if self.episode is not None:
            self.episode.actions.append(copy.deepcopy(action))
        result = type(self.env).step(self.env, action)
        if self.episode is not None:
            self.episode = self.episode._replace(observation=copy.deepcopy(result[0]))
        return result

    def replay(self, episode: Episode) -> bool:
        """
        Reset the environment as it was reset then, and repeat the actions.

        :param episode: recorded by another process
        :return: whether the environment has returned the same last observation
        """
        put(episode.before, {"env": self.env})
        observation = self.reset(**episode.reset_arguments)[0]
        for action in episode.actions:
            observation = self.step(action)[0]
        return _equal(observation, episode.observation)


def recorder_of(env: Any) -> EpisodeRecorder | None:
    """Return the recorder of an innermost environment, if it has one."""
    recorder = vars(env).get(RECORDER_ATTRIBUTE)
    return recorder if isinstance(recorder, EpisodeRecorder) else None


def can_be_replayed(env: Any) -> bool:
    """Return whether ``reset`` and ``step`` are the class's own methods, which a recorder can replace."""
    return all(isinstance(getattr(type(env), name, None), types.FunctionType) for name in ("reset", "step"))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return np.array_equal(one, other)
