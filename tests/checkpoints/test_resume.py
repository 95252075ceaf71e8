"""An interrupted run that is resumed ends bit for bit as one that was not interrupted."""

from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from selection import mostly_slow
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize
from support.capabilities import DICT, envs
from support.interrupted import assert_same_run, uninterrupted_and_resumed
from support.models import make, parameters, takes, with_sde
from support.small_environments import DEVICE
from support.variants import each_variant

import sb3_pgx
from sb3_pgx import ACER, PPO, A2C, MaskablePPO, PPOPenalty, RecurrentPPO
from sb3_pgx.checkpoints import newest_checkpoint
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.environments import make_vec_env as make_array_env


@each_variant()
@pytest.mark.parametrize("normalize", [False, True])
def test_every_algorithm_continues_exactly(variant, normalize, tmp_path):
    coefficient = dict(ent_coef="lin_0.1") if takes(variant.name, "ent_coef") else {}

    def environment():
        return VecNormalize(variant.envs()) if normalize else variant.envs()

    def model(env):
        return variant.make(env, learning_rate="lin_0.01", **coefficient)

    assert_same_run(*uninterrupted_and_resumed(model, environment, 96, tmp_path, at=27, save_freq=5))


def ppo(env, **kwargs):
    is_dict = isinstance(env.observation_space, gym.spaces.Dict)
    arguments = dict(n_steps=32, batch_size=16, n_epochs=2, seed=1, device=DEVICE)
    return PPO("MultiInputPolicy" if is_dict else "MlpPolicy", env, **{**arguments, **kwargs})


FORK = dict(start_method="fork")  # faster than starting Python again
ENVIRONMENTS = {
    "CartPole": lambda: make_vec_env("CartPole-v1", 2, seed=3),
    "CartPole in processes": lambda: make_vec_env("CartPole-v1", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs=FORK),
    "stacked frames": lambda: VecNormalize(VecFrameStack(make_vec_env("Pendulum-v1", 2, seed=3), 3)),
    "normalised frames": lambda: VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3)), 3),
    "dictionaries": lambda: envs(DICT),
    "CartPole as arrays": lambda: make_array_env("CartPole-v1", 3, 3, "vector"),
    "a SyncVectorEnv": lambda: gym.make_vec("Acrobot-v1", 2, "sync"),
    "LunarLander": lambda: make_vec_env("LunarLander-v3", 2, seed=3),
    "LunarLander in processes": lambda: make_vec_env("LunarLander-v3", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs=FORK),
    "HalfCheetah": lambda: VecNormalize(make_vec_env("HalfCheetah-v5", 2, seed=3)),
    "Ant": lambda: make_vec_env("Ant-v5", 1, seed=3),  # its reward depends on positions that a step leaves behind
}
NEEDS = {"LunarLander": "Box2D", "HalfCheetah": "mujoco", "Ant": "mujoco"}
SLOW = ("a SyncVectorEnv", "LunarLander in processes", "Ant", "normalised frames")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", mostly_slow([(kind,) for kind in ENVIRONMENTS], lambda kind: kind not in SLOW), ids=str)
def test_every_environment_continues_exactly(kind, tmp_path, recwarn):
    package = NEEDS.get(kind.split()[0])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert_same_run(*uninterrupted_and_resumed(ppo, ENVIRONMENTS[kind], 320, tmp_path, at=110, save_freq=40))
    assert not [w for w in recwarn if "Resuming" in str(w.message)]
