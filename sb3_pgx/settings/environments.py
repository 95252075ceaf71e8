"""Makes the vectorised environments of a hyperparameter file: one by one, in the same way as rl_zoo3, or as arrays."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from sb3_pgx.core.policy_names import RECURRENT_POLICIES
from sb3_pgx.environments import make_vec_env
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.envpool import library
from sb3_pgx.environments.vector_env import MIXED_FRAMES
from sb3_pgx.settings.configs import DUMMY, ENVPOOL, SUBPROC, VECTOR, RunConfig, import_name, suggestion
from sb3_pgx.settings.registration import register_environment, sentence

# The extra of gymnasium that an environment needs, by the module of its code.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "classic_control": "classic-control", "toy_text": "toy-text"}
# How to install the environments of a namespace.
HINTS = {"ALE": 'pip install "gymnasium[atari]", and write ale_py:ALE/…', "MinAtar": "pip install minatar"}
SMALLEST_IMAGE = 36  # height and width that the convolutions of SB3's CnnPolicy need
ONE_BY_ONE: dict[str, type[VecEnv]] = {DUMMY: DummyVecEnv, SUBPROC: SubprocVecEnv}
AS_ARRAYS: dict[str, Literal[True, "envpool"]] = {VECTOR: True, ENVPOOL: "envpool"}


def find_environment(env_id: str, vec_env: str = DUMMY) -> EnvSpec:
    """
    Find the specification of an environment.

    :param env_id: Gymnasium's name of the environment, or EnvPool's if that steps it
    :param vec_env: how it steps, one of :data:`~sb3_pgx.settings.configs.VEC_ENVS`
    :return: the specification, which has the ``reward_threshold``
    :raises ValueError: there is no environment of that name; the message gives the nearest ones
    :raises ImportError: the module before a colon cannot be imported, an installed package cannot register its environments,
        or EnvPool is needed and not installed
    """
    if vec_env == ENVPOOL:
        return _find_in_envpool(env_id)
    name = register_environment(env_id)
    try:
        return gym.spec(name)
    except gym.error.NamespaceNotFound as error:
        hint = HINTS.get(name.partition("/")[0])
        raise ValueError(f"environment {env_id!r} is unknown: {sentence(error)}{f' ({hint})' if hint else ''}") from None
    except gym.error.Error as error:
        module = env_id[: -len(name)]
        near = suggestion(env_id, [module + known for known in gym.registry])
        raise ValueError(f"environment {env_id!r} is unknown: {near.removeprefix('; ') or sentence(error)}") from None


class CheckedEnvironment(NamedTuple):
    """
    What is known of an environment that was made once.

    :param spec: specification of the environment, which has the ``reward_threshold``
    :param observation_space: space of the observations, after the wrappers of the settings
    """

    spec: EnvSpec
    observation_space: gym.Space


def check_environment(env_id: str, config: RunConfig, algorithm: type[BaseAlgorithm] | None = None) -> CheckedEnvironment:
    """
    Make the environment with its wrappers once, so that a misspelt name or a missing package is found before training.

    :param env_id: Gymnasium's name of the environment
    :param config: the settings, of which ``env_kwargs``, ``wrappers``, ``vec_env`` and ``frame_stack`` are used
    :param algorithm: class that will train there, if one will
    :return: what is known of the environment
    :raises ValueError: there is no environment of that name, it or a wrapper refuses its arguments, or other settings or the
        algorithm cannot be combined with ``vec_env``
    :raises ImportError: the environment needs a package that is not installed; the message says how to install it
    """
    spec = find_environment(env_id, config.vec_env)
    try:
        env = _make_one(config, env_id, **config.env_kwargs) if config.vec_env in ONE_BY_ONE else _make_two(config, env_id)
        env.close()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(f"environment {env_id} cannot be made: {sentence(error)}{_install_hint(spec)}") from None
    except Exception as error:  # environments raise any kind of error for wrong arguments
        wrappers = "".join(f", {name}({kwargs})" for name, kwargs in config.wrappers)
        raise ValueError(
            f"environment {env_id} cannot be made with {config.env_kwargs}{wrappers}: {sentence(error)}"
        ) from error
    if isinstance(env, VecEnv):
        check_steps_that_only_reset(env, config.frame_stack, algorithm)
    return CheckedEnvironment(spec, env.observation_space)


def choose_policy(config: RunConfig, space: gym.Space, algorithm: type[BaseAlgorithm]) -> RunConfig:
    """
    Return settings with a policy that fits the observations: of a dictionary, ``MultiInputPolicy``; of images,
    ``CnnPolicy``, unless the settings are made for this environment; or their relatives with memory. Images that are too small
    for the convolutions are left as they are.

    :param config: the settings
    :param space: space of the observations
    :param algorithm: class of the algorithm; a policy that it does not know is not chosen
    """
    kind = None
    if isinstance(space, gym.spaces.Dict):
        kind = "MultiInput"
    elif config.is_general and is_image_space(space) and min(sorted(space.shape or (0,))[1:]) >= SMALLEST_IMAGE:
        kind = "Cnn"
    policy = config.policy.replace("Mlp", kind) if kind and config.policy.startswith("Mlp") else config.policy
    if policy == config.policy or not (policy in algorithm.policy_aliases or policy in RECURRENT_POLICIES):
        return config
    return replace(config, policy=policy)


def check_steps_that_only_reset(env: VecEnv, frame_stack: int | None, algorithm: type[BaseAlgorithm] | None) -> None:
    """
    Check that an algorithm can train in environments of which some steps only reset, if these are such environments.

    :param env: environments that step as arrays
    :param frame_stack: number of frames for ``VecFrameStack``; ``None`` for none
    :param algorithm: class that will train there, if one will
    :raises ValueError: it cannot
    """
    adapter = carrying_adapter(env)
    reason = _why_not(algorithm) if frame_stack is None else MIXED_FRAMES
    if adapter is not None and reason is not None:
        raise adapter.refusal(reason, "step the environments one by one (vec_env: dummy)")


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
    if config.vec_env == SUBPROC:
        config = replace(config, vec_env=DUMMY)  # a few episodes do not pay for starting processes
    return _make_env(config, env_id, seed, n_envs, normalize)


def _make_env(config: RunConfig, env_id: str, seed: int, n_envs: int, normalize: dict[str, Any] | None) -> VecEnv:
    env = _make_bare(config, env_id, seed, n_envs)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    if config.frame_stack is not None:
        env = VecFrameStack(env, config.frame_stack)
    # The algorithm would add this wrapper to the training environments only, and statistics could then not be copied.
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        env = VecTransposeImage(env)
    return env


def _make_bare(config: RunConfig, env_id: str, seed: int, n_envs: int) -> VecEnv:
    """Make the environments without any ``VecEnvWrapper``."""
    if config.vec_env in AS_ARRAYS:
        name = find_environment(env_id, config.vec_env).id
        wrapper = partial(_wrapped, config) if config.wrappers else None
        return make_vec_env(name, n_envs, seed, AS_ARRAYS[config.vec_env], env_kwargs=config.env_kwargs, wrapper_class=wrapper)
    # Monitor is the outermost wrapper because it must see episodes that another wrapper ends.
    make_one: Any = partial(_make_one, config, env_id)
    return make_vec_env(make_one, n_envs, seed, env_kwargs=config.env_kwargs, vec_env_cls=ONE_BY_ONE[config.vec_env])


def _make_two(config: RunConfig, env_id: str) -> VecEnv:
    """Make environments that step as arrays: as few as show how they reset."""
    return _make_bare(config, env_id, 0, min(config.n_envs, 2))


def _make_one(config: RunConfig, env_id: str, **kwargs: Any) -> gym.Env:
    find_environment(env_id)  # registers it, which matters in a new process
    return _wrapped(config, gym.make(env_id, **kwargs))


def _wrapped(config: RunConfig, env: gym.Env) -> gym.Env:
    for name, wrapper_kwargs in config.wrappers:
        env = import_name(name)(env, **wrapper_kwargs)
    return env


def _find_in_envpool(env_id: str) -> EnvSpec:
    envpool = library()
    names = envpool.list_all_envs()
    if env_id not in names:
        near = suggestion(env_id, names) or "; envpool.list_all_envs() returns its names"
        raise ValueError(f"EnvPool has no environment {env_id!r}{near}")
    return EnvSpec(env_id, reward_threshold=envpool.make_spec(env_id).reward_threshold)


def _why_not(algorithm: type[BaseAlgorithm] | None) -> str | None:
    """Return why an algorithm cannot leave out single steps; ``None`` if it can."""
    if algorithm is None:
        return None
    learns_from_all = f"{algorithm.__name__} of {algorithm.__module__.partition('.')[0]} learns from every step"
    return getattr(algorithm, "refuses_gaps", learns_from_all)  # an attribute of this package's algorithms


def _install_hint(spec: EnvSpec) -> str:
    """Return how to install the packages of one of Gymnasium's own environments."""
    parts = spec.entry_point.split(".") if isinstance(spec.entry_point, str) else []
    extra = EXTRAS.get(parts[2]) if parts[:2] == ["gymnasium", "envs"] else None
    return f'; pip install "gymnasium[{extra}]"' if extra else ""
