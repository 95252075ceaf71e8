"""
Environments for A3C's workers: each worker but the first gets its own, in its own process.

They come from the function that the user gave, or are copies of the environments that the user gave.
"""

import inspect
import io
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

Factory = Callable[[], GymEnv]

_FACTORIES: WeakKeyDictionary[VecEnv, Factory] = WeakKeyDictionary()  # the functions that made environments


def is_factory(env: Any) -> bool:
    """Return whether an argument is a function that makes environments, or a class of environments."""
    return callable(env) and (isinstance(env, type) or not hasattr(env, "step"))


def remember_factory(env: VecEnv, factory: Factory) -> None:
    """Remember which function made the environments."""
    _FACTORIES[env] = factory


def packed(env: VecEnv) -> Factory:
    """
    Return a function that can be pickled and makes environments like these.

    :param env: the environments of the first worker
    :raises TypeError: they, or the function that made them, cannot be pickled
    """
    factory = _FACTORIES.get(env)
    try:
        return _Unpack(_pickled(env if factory is None else factory), factory is not None)
    except Exception as error:
        what = f"{_kind(env)} cannot be copied" if factory is None else f"the function {factory!r} cannot be pickled"
        remedy = (
            "pass env as a function without arguments that makes the environments"
            if factory is None
            else "make everything that it needs inside of it"
        )
        raise TypeError(
            f"A3C with n_workers > 1 sends each worker its environments by cloudpickle, but {what} "
            f"({type(error).__name__}: {error}): {remedy}"
        ) from error


class _Unpack:
    """Makes environments in a worker's process."""

    def __init__(self, content: bytes, is_factory: bool):
        self.content, self.is_factory = content, is_factory

    def __call__(self) -> GymEnv:
        made = cloudpickle.loads(self.content)
        return made() if self.is_factory else made


class _EnvironmentPickler(cloudpickle.Pickler):
    """Also pickles wrappers of SB3, and ``Monitor`` with a file, to which the copy does not write."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ResultsWriter):
            return type(None), ()
        if isinstance(obj, VecEnvWrapper):
            state = {name: value for name, value in vars(obj).items() if name not in ("venv", "class_attributes")}
            return _rewrapped, (type(obj), obj.venv, state)
        return super().reducer_override(obj)


def _rewrapped(kind: type[VecEnvWrapper], venv: VecEnv, state: dict[str, Any]) -> VecEnvWrapper:
    wrapper = kind.__new__(kind)
    vars(wrapper).update(state, venv=venv, class_attributes=dict(inspect.getmembers(kind)))
    return wrapper


def _pickled(thing: Any) -> bytes:
    file = io.BytesIO()
    _EnvironmentPickler(file).dump(thing)
    return file.getvalue()


def _kind(env: VecEnv) -> str:
    names = [type(env).__name__]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        names.append(type(env).__name__)
    return " around ".join(names)
