"""Builds the vectorised environments that a hyperparameter file describes, as rl_zoo3 does."""

from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_pgx.settings.configs import RunConfig, import_name, suggestion
from sb3_pgx.settings.registration import register_environment, sentence

# The extra of gymnasium that an environment's code needs, by the module that holds it.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "classic_control": "classic-control", "toy_text": "toy-text"}
# Where the environments of a namespace come from.
HINTS = {"ALE": 'pip install "gymnasium[atari]", and write ale_py:ALE/…', "MinAtar": "pip install minatar"}


def find_environment(env_id: str) -> EnvSpec:
    """
    :param env_id: Gymnasium's name of the environment
    :return: what Gymnasium knows of it, such as ``reward_threshold``
    :raises ValueError: no environment of that name; names the nearest ones
    :raises ImportError: the module before a colon cannot be imported, or an installed package cannot register what it has
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
    Makes the environment once, with its wrappers, so that a misspelt name or a missing package is found before any training.

    :param env_id: Gymnasium's name of the environment
    :param config: its ``env_kwargs`` go to ``gymnasium.make``, and its ``wrappers`` around what that gives
    :return: as :func:`find_environment`
    :raises ValueError: no environment of that name, or its arguments or a wrapper's are wrong; names the nearest ones
    :raises ImportError: the environment needs a package that is not installed; says how to install it
    """
    spec = find_environment(env_id)
    try:
        _make_one(config, env_id, **config.env_kwargs).close()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(f"environment {env_id} cannot be made: {sentence(error)}{_install_hint(spec)}") from None
    except Exception as error:  # any environment may refuse its arguments in its own way
        wrappers = "".join(f", {name}({kwargs})" for name, kwargs in config.wrappers)
        raise ValueError(
            f"environment {env_id} cannot be made with {config.env_kwargs}{wrappers}: {sentence(error)}"
        ) from error
    return spec


def make_train_env(config: RunConfig, env_id: str, seed: int) -> VecEnv:
    """
    The training environments.

    :param config: the settings
    :param env_id: Gymnasium's name of the environment
    :param seed: of the first environment; the others count up from it
    """
    return _make_env(config, env_id, seed, config.n_envs, config.normalize)


def make_eval_env(config: RunConfig, env_id: str, seed: int, n_envs: int = 1) -> VecEnv:
    """
    Environments that show the policy what the training environments do, with rewards that are not normalised: normalisation
    statistics are frozen, and have to be copied from the training environments before each evaluation.

    :param config: the settings
    :param env_id: Gymnasium's name of the environment
    :param seed: of the first environment; the others count up from it
    :param n_envs: episodes that are played at the same time
    """
    normalize = None if config.normalize is None else {**config.normalize, "norm_reward": False, "training": False}
    return _make_env(config, env_id, seed, n_envs, normalize)


def _make_env(config: RunConfig, env_id: str, seed: int, n_envs: int, normalize: dict[str, Any] | None) -> VecEnv:
    # Monitor comes outermost: an evaluation counts the episodes that it saw end, and a wrapper may end them.
    env: VecEnv = make_vec_env(partial(_make_one, config, env_id), n_envs, seed=seed, env_kwargs=config.env_kwargs)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    if config.frame_stack is not None:
        env = VecFrameStack(env, config.frame_stack)
    # The algorithm would do it to its own environments; both kinds have to be wrapped alike for their statistics to sync.
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        env = VecTransposeImage(env)
    return env


def _make_one(config: RunConfig, env_id: str, **kwargs: Any) -> gym.Env:
    find_environment(env_id)  # in a process of its own, nobody may have registered it
    env = gym.make(env_id, **kwargs)
    for name, wrapper_kwargs in config.wrappers:
        env = import_name(name)(env, **wrapper_kwargs)
    return env


def _install_hint(spec: EnvSpec) -> str:
    """How to install what the environment needs, where it is one of Gymnasium's own."""
    parts = spec.entry_point.split(".") if isinstance(spec.entry_point, str) else []
    extra = EXTRAS.get(parts[2]) if parts[:2] == ["gymnasium", "envs"] else None
    return f'; pip install "gymnasium[{extra}]"' if extra else ""
