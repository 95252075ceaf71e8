"""Makes the vectorised environments of a hyperparameter file in the same way as rl_zoo3."""

from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_pgx.settings.configs import RunConfig, import_name, suggestion
from sb3_pgx.settings.registration import register_environment, sentence

# The extra of gymnasium that an environment needs, by the module of its code.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "classic_control": "classic-control", "toy_text": "toy-text"}
# How to install the environments of a namespace.
HINTS = {"ALE": 'pip install "gymnasium[atari]", and write ale_py:ALE/…', "MinAtar": "pip install minatar"}


def find_environment(env_id: str) -> EnvSpec:
    """
    Find Gymnasium's specification of an environment.

    :param env_id: Gymnasium's name of the environment
    :return: the specification, which has the ``reward_threshold``
    :raises ValueError: there is no environment of that name; the message gives the nearest ones
    :raises ImportError: the module before a colon cannot be imported, or an installed package cannot register its environments
    """
    name = register_environment(env_id)
    try:
        return gym.spec(name)
    except gym.error.NamespaceNotFound as error:
        hint = HINTS.get(name.partition("/")[0])
        raise ValueError(f"environment {env_id!r} is unknown: {sentence(error)}{f' ({hint})' if hint else ''}") from None
    except gym.error.Error as error:
        near = suggestion(env_id, list(gym.registry))
        raise ValueError(f"environment {env_id!r} is unknown: {near.removeprefix('; ') or sentence(error)}") from None


def check_environment(env_id: str, config: RunConfig) -> EnvSpec:
    """
    Make the environment with its wrappers once, so that a misspelt name or a missing package is found before training.

    :param env_id: Gymnasium's name of the environment
    :param config: the settings, of which ``env_kwargs`` and ``wrappers`` are used
    :return: Gymnasium's specification of the environment
    :raises ValueError: there is no environment of that name, or it or a wrapper refuses its arguments
    :raises ImportError: the environment needs a package that is not installed; the message says how to install it
    """
    spec = find_environment(env_id)
    try:
        _make_one(config, env_id, **config.env_kwargs).close()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(f"environment {env_id} cannot be made: {sentence(error)}{_install_hint(spec)}") from None
    except Exception as error:  # environments raise any kind of error for wrong arguments
        wrappers = "".join(f", {name}({kwargs})" for name, kwargs in config.wrappers)
        raise ValueError(
            f"environment {env_id} cannot be made with {config.env_kwargs}{wrappers}: {sentence(error)}"
        ) from error
    return spec


def make_train_env(config: RunConfig, env_id: str, seed: int) -> VecEnv:
    """
    Make the training environments.

    :param config: the settings
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the first environment; the others have the following seeds
    """
    return _make_env(config, env_id, seed, config.n_envs, config.normalize)


def make_eval_env(config: RunConfig, env_id: str, seed: int, n_envs: int = 1) -> VecEnv:
    """
    Make environments for evaluation, with the same observations as in training and with raw rewards. Their normalisation
    statistics are frozen; copy them from the training environments before each evaluation.

    :param config: the settings
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the first environment; the others have the following seeds
    :param n_envs: number of episodes that are played at the same time
    """
    normalize = None if config.normalize is None else {**config.normalize, "norm_reward": False, "training": False}
    return _make_env(config, env_id, seed, n_envs, normalize)


def _make_env(config: RunConfig, env_id: str, seed: int, n_envs: int, normalize: dict[str, Any] | None) -> VecEnv:
    # Monitor is the outermost wrapper because it must see episodes that another wrapper ends.
    env: VecEnv = make_vec_env(partial(_make_one, config, env_id), n_envs, seed=seed, env_kwargs=config.env_kwargs)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    if config.frame_stack is not None:
        env = VecFrameStack(env, config.frame_stack)
    # The algorithm would add this wrapper to the training environments only, and statistics could then not be copied.
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        env = VecTransposeImage(env)
    return env


def _make_one(config: RunConfig, env_id: str, **kwargs: Any) -> gym.Env:
    find_environment(env_id)  # registers it, which matters in a new process
    env = gym.make(env_id, **kwargs)
    for name, wrapper_kwargs in config.wrappers:
        env = import_name(name)(env, **wrapper_kwargs)
    return env


def _install_hint(spec: EnvSpec) -> str:
    """Return how to install the packages of one of Gymnasium's own environments."""
    parts = spec.entry_point.split(".") if isinstance(spec.entry_point, str) else []
    extra = EXTRAS.get(parts[2]) if parts[:2] == ["gymnasium", "envs"] else None
    return f'; pip install "gymnasium[{extra}]"' if extra else ""
