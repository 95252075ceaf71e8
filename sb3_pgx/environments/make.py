"""Make environments from an id, one by one as SB3 does or as arrays."""

from importlib import import_module
from typing import Any, Literal

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env as make_one_by_one
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.environments.envpool import make_envpool
from sb3_pgx.environments.spread import Sharing, spread
from sb3_pgx.environments.vector_env import as_vec_env

SAME_STEP = gym.vector.AutoresetMode.SAME_STEP


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    vector: bool | Literal["envpool"] = False,
    parallel: Sharing | None = None,
    max_dropped: int = 0,
    **kwargs: Any,
) -> VecEnv:
    """
    Make environments from an id.

    :param env_id: Gymnasium's name of the environment; a module before a colon is imported first
    :param n_envs: N, number of environments
    :param seed: of the first environment; the others have the next ones
    :param vector: step all environments as arrays, with the environment's own vectorised implementation if it has one
        (``vector_entry_point``). ``"envpool"``: with EnvPool's, in C++. ``False``: SB3's ``make_vec_env``
    :param parallel: how processes that ``torchrun`` has started share the work; each makes its share of the environments, see
        :func:`~sb3_pgx.environments.spread.spread`. ``None``: each process makes all of them, and works alone
    :param max_dropped: see :func:`~sb3_pgx.environments.spread.spread`
    :param kwargs: of SB3's ``make_vec_env``; with ``vector`` only ``env_kwargs`` and ``wrapper_class``
    :raises TypeError: an argument has no meaning for environments that step as arrays
    :raises ValueError: ``wrapper_class`` is given, and no single environments are made that it could wrap
    :raises ImportError: EnvPool is needed and not installed; the message names the command
    """
    if parallel is not None:

        def share(rows: range) -> VecEnv:
            place = {} if vector else {"start_index": kwargs.get("start_index", 0) + rows.start}
            first = None if seed is None else seed + rows.start
            env = make_vec_env(env_id, len(rows), first if vector else seed, vector, **{**kwargs, **place})
            if first is not None:
                env.seed(first)
            return env

        return spread(share, n_envs, parallel, max_dropped)
    if not vector:
        return make_one_by_one(env_id, n_envs, seed, **kwargs)
    env_kwargs, wrapper = kwargs.pop("env_kwargs", None) or {}, kwargs.pop("wrapper_class", None)
    if kwargs:
        rest = ", ".join(kwargs)
        raise TypeError(
            f"vector={vector!r} takes env_kwargs and wrapper_class, but not {rest}, which belong to single environments"
        )
    if vector == "envpool":
        _check_unwrapped("EnvPool", wrapper)
        return as_vec_env(make_envpool(env_id, n_envs, seed, **env_kwargs))
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)  # which registers the environment
    if gym.spec(name).vector_entry_point is not None:
        _check_unwrapped(f"{env_id}'s own vectorised implementation", wrapper)
        made = gym.make_vec(env_id, n_envs, "vector_entry_point", **env_kwargs)
    else:
        wrappers = [] if wrapper is None else [wrapper]
        made = gym.make_vec(env_id, n_envs, "sync", {"autoreset_mode": SAME_STEP}, wrappers, **env_kwargs)
    env = as_vec_env(made)
    env.seed(seed)
    return env


def _check_unwrapped(maker: str, wrapper: Any) -> None:
    if wrapper is not None:
        raise ValueError(
            f"{maker} steps all environments at once, so there are no single ones to wrap: leave the wrapper out "
            "(wrapper_class, or env_wrapper in settings), or step the environments one by one"
        )
