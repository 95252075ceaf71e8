"""Environments that only this process has registered with Gymnasium, on their way to a process that works for it."""

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import cloudpickle
import gymnasium as gym


class RegisteredEnvironments:
    """
    What Gymnasium knows of some environments in this process. A process that unpickles it knows them, too. A new process would
    not know what a notebook has registered, or a script under ``if __name__ == "__main__":``.

    :param env_ids: Gymnasium's names of the environments. Those that are unknown, or whose registration cannot be pickled, are
        left out; the other process reports them when it makes them.
    """

    def __init__(self, env_ids: Iterable[str]):
        self.env_ids = tuple(env_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        names = [env_id.rpartition(":")[2] for env_id in self.env_ids]
        pickled = [_pickled(gym.registry[name]) for name in names if name in gym.registry]
        return _register, (self.env_ids, [spec for spec in pickled if spec is not None])


def _pickled(spec: Any) -> bytes | None:
    try:
        return cloudpickle.dumps(spec)
    except Exception:  # an entry point or an argument may be anything
        return None


def _register(env_ids: Sequence[str], pickled: Sequence[bytes]) -> RegisteredEnvironments:
    """Register environments that this process does not know."""
    for each in pickled:
        try:
            spec = pickle.loads(each)
        except Exception:  # its module is not there
            continue
        gym.registry.setdefault(spec.id, spec)
    return RegisteredEnvironments(env_ids)
