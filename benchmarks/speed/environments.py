"""The environments of a contender: one by one in Python, as arrays, or EnvPool's. Atari games have the usual preprocessing."""

from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from benchmarks.speed.cases import ARRAYS, ENVPOOL
from sb3_pgx.environments import as_vec_env, make_vec_env

ATARI = "ale_py:ALE/"
FRAMES = 4  # per step, and per observation


def make_environments(env_id: str, n_envs: int, contender: str, seed: int) -> VecEnv:
    """
    Make environments. All that step in C++ do so in one thread.

    :param env_id: Gymnasium's name of the environment
    :param n_envs: number of environments
    :param contender: its name says how they step, see :class:`~benchmarks.speed.cases.Case`
    :param seed: seed of the first environment
    """
    arrays = contender.endswith(ARRAYS)
    if env_id.startswith(ATARI):
        return _atari_arrays(env_id, n_envs, seed) if arrays else _atari_one_by_one(env_id, n_envs, seed)
    return make_vec_env(env_id, n_envs, seed, vector="envpool" if contender.endswith(ENVPOOL) else arrays)


def _atari_one_by_one(env_id: str, n_envs: int, seed: int) -> VecEnv:
    """``AtariWrapper`` repeats actions itself, so the game must not."""
    game = {"frameskip": 1, "repeat_action_probability": 0.0}
    return VecFrameStack(make_atari_env(env_id, n_envs, seed, env_kwargs=game), FRAMES)


def _atari_arrays(env_id: str, n_envs: int, seed: int) -> VecEnv:
    """ALE's own vector environment, with the preprocessing of ``AtariWrapper`` but for the actions that start a game."""
    game = {"frameskip": FRAMES, "maxpool": True, "repeat_action_probability": 0.0, "num_threads": 1}
    wrapper = {"stack_num": FRAMES, "noop_max": 30, "use_fire_reset": True, "episodic_life": True, "reward_clipping": True}
    arguments: dict[str, Any] = {**game, **wrapper}
    env = as_vec_env(gym.make_vec(env_id, n_envs, "vector_entry_point", **arguments))
    env.seed(seed)
    return env
