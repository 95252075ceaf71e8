"""Make environments from an id, one by one as SB3 does or as arrays."""

from typing import Any, Literal

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env as make_one_by_one
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.environments.envpool import make_envpool
from sb3_pgx.environments.vector_env import as_vec_env


def make_vec_env(
    env_id: str, n_envs: int = 1, seed: int | None = None, vector: bool | Literal["envpool"] = False, **kwargs: Any
) -> VecEnv:
    """
    Make environments from an id.

    :param env_id: Gymnasium's name of the environment
    :param n_envs: N, number of environments
    :param seed: of the first environment; the others have the next ones
    :param vector: step all environments as arrays, with the environment's own vectorised implementation if it has one
        (``vector_entry_point``). ``"envpool"``: with EnvPool's, in C++. ``False``: SB3's ``make_vec_env``
    :param kwargs: of SB3's ``make_vec_env``; with ``vector`` only ``env_kwargs``
    :raises TypeError: an argument has no meaning for environments that step as arrays
    :raises ImportError: EnvPool is needed and not installed; the message names the command
    """
    if not vector:
        return make_one_by_one(env_id, n_envs, seed, **kwargs)
    env_kwargs = kwargs.pop("env_kwargs", None) or {}
    if kwargs:
        raise TypeError(f"vector=True takes env_kwargs, but not {', '.join(kwargs)}, which belong to single environments")
    if vector == "envpool":
        return as_vec_env(make_envpool(env_id, n_envs, seed, **env_kwargs))
    spec = gym.spec(env_id)
    own = spec.vector_entry_point is not None
    same_step: dict[str, Any] = {} if own else {"vector_kwargs": {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}}
    env = as_vec_env(gym.make_vec(env_id, n_envs, "vector_entry_point" if own else "sync", **same_step, **env_kwargs))
    env.seed(seed)
    return env
