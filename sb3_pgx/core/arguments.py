"""What constructors and ``learn`` are given, checked before anything is built: an error names value, place and remedy."""

import inspect
import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import get_device
from torch import nn
from torch.optim import Optimizer

from sb3_pgx.core.checks import check_counts, is_number, without_arrays
from sb3_pgx.core.errors import first_line

MAX_SEED = 2**32 - 1  # NumPy's
# The least width and height that SB3's convolutions leave something of.
MIN_IMAGE = 36
# Beyond, σ is 0 or infinite in float32.
MAX_LOG_STD = 87.0
# Packages whose policies' constructors take what SB3's take.
_KNOWN = ("sb3_pgx", "stable_baselines3", "torch", "builtins")

# ------------------------------------------------------------------------------------------------ before SB3's constructor


def check_policy(policy: Any, aliases: Mapping[str, Any]) -> None:
    """
    :raises ValueError: a name that is unknown
    :raises TypeError: neither a name nor a class
    """
    if isinstance(policy, str) and policy not in aliases:
        raise ValueError(f'policy="{policy}" is unknown; choose one of {", ".join(aliases)}, or give a class')
    if not isinstance(policy, str) and not callable(policy):
        raise TypeError(f"policy={policy!r} must be one of {', '.join(aliases)}, or a class")


def check_environment(env: Any) -> None:
    """
    :raises TypeError: no environment that SB3 could step; those of OpenAI's gym are left to SB3
    """
    name = type(env).__name__
    if isinstance(env, gym.vector.VectorEnv):
        raise TypeError(
            f"env is {name}, a VectorEnv of gymnasium, and the algorithms step a VecEnv of SB3: make the same environments "
            "with stable_baselines3.common.env_util.make_vec_env(id, n_envs=N)"
        )
    if isinstance(env, type) or not (hasattr(env, "reset") and hasattr(env, "step")):
        what = f"the class {env.__name__}" if isinstance(env, type) else f"of type {name}"
        raise TypeError(
            f"env is {what}, and must be an environment, its id, or a VecEnv of SB3; for a function that makes one, call it, "
            "or give it to stable_baselines3.common.env_util.make_vec_env"
        )


def check_device(device: Any) -> None:
    """:raises ValueError: torch knows no such device"""
    try:
        get_device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f'device={device!r} is unknown; choose "auto", "cpu" or "cuda" ({first_line(error)})') from None


def check_verbose(verbose: Any) -> None:
    """:raises TypeError: it is no whole number; SB3's users also write ``True``"""
    if not isinstance(verbose, Integral):
        raise TypeError(f"verbose={verbose!r} must be 0 (nothing), 1 (messages) or 2 (debug)")


def check_mapping(**arguments: Any) -> None:
    """:raises TypeError: neither ``None`` nor a dictionary"""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name}={value!r} must be a dictionary")


# ------------------------------------------------------------------------------------------------ SB3's arguments


def check_sb3s_arguments(model: Any) -> None:
    """
    The arguments that SB3 has for every algorithm, of which it looks at few.

    :raises ValueError: one makes no sense
    :raises TypeError: one is of the wrong kind
    """
    window, freq, seed = model._stats_window_size, model.sde_sample_freq, model.seed
    if window is not None:  # which keeps all episodes
        check_counts(0, stats_window_size=window)
    if not is_number(freq) or not isinstance(freq, int):
        raise ValueError(f"sde_sample_freq={freq!r} must be a whole number of steps; -1 draws noise once per rollout")
    if seed is not None and not (is_number(seed) and isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise ValueError(f"seed={seed!r} must be a whole number from 0 to {MAX_SEED}, or None")
    if model.tensorboard_log is not None and not isinstance(model.tensorboard_log, str | os.PathLike):
        raise TypeError(f"tensorboard_log={model.tensorboard_log!r} must be the path of a folder, or None")
    if model.rollout_buffer_class is not None and not callable(model.rollout_buffer_class):
        raise TypeError(f"rollout_buffer_class={model.rollout_buffer_class!r} must be a class, or None")
    _check_buffer_arguments(model.rollout_buffer_class or RolloutBuffer, model.rollout_buffer_kwargs or {})


def _check_buffer_arguments(buffer_class: Any, kwargs: Mapping[str, Any]) -> None:
    given = dict(device=None, gamma=0.0, gae_lambda=0.0, n_envs=1)
    try:
        inspect.signature(buffer_class).bind(0, None, None, **{**given, **kwargs})
    except TypeError as error:
        raise TypeError(
            f"rollout_buffer_class={buffer_class!r} cannot be made with rollout_buffer_kwargs={dict(kwargs)!r} ({error}): it "
            "is called with the arguments of SB3's RolloutBuffer and these"
        ) from None


def check_policy_kwargs(policy_class: Any, kwargs: Mapping[str, Any]) -> None:
    """
    What SB3's own policies are given; a class with a constructor of its own may give the names another meaning.

    :raises ValueError: a value makes no sense
    :raises TypeError: a value is of the wrong kind
    """
    optimizer_class, optimizer_kwargs = kwargs.get("optimizer_class"), kwargs.get("optimizer_kwargs")
    if optimizer_class is not None:
        check_optimizer_class(optimizer_class)
    check_mapping(optimizer_kwargs=optimizer_kwargs, features_extractor_kwargs=kwargs.get("features_extractor_kwargs"))
    if "lr" in (optimizer_kwargs or {}):
        raise ValueError("policy_kwargs: optimizer_kwargs has lr, which is the algorithm's learning_rate: give that instead")
    if not _is_sb3s_constructor(policy_class):
        return
    _check_net_arch(kwargs.get("net_arch"))
    for name in ("activation_fn", "features_extractor_class"):
        if name in kwargs and not callable(kwargs[name]):
            raise TypeError(f"policy_kwargs: {name}={kwargs[name]!r} must be a class, such as torch.nn.Tanh of activations")
    log_std = kwargs.get("log_std_init", 0.0)
    if not is_number(log_std) or not abs(log_std) <= MAX_LOG_STD:
        raise ValueError(
            f"policy_kwargs: log_std_init={log_std!r} must be a number within ±{MAX_LOG_STD:g}, beyond which the standard "
            "deviation is 0 or infinite"
        )


def _check_net_arch(net_arch: Any) -> None:
    """A list of sizes, or lists of them as ``pi`` and ``vf``; SB3 before 1.8 had the dictionary in a list."""
    if net_arch is None:
        return
    if isinstance(net_arch, list | tuple) and len(net_arch) == 1 and isinstance(net_arch[0], Mapping):
        net_arch = net_arch[0]
    parts = net_arch if isinstance(net_arch, Mapping) else {"": net_arch}
    for part, sizes in parts.items():
        where = f"net_arch={net_arch!r}" + (f" ({part})" if part else "")
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise TypeError(f"policy_kwargs: {where} must be a list of the sizes of layers, or dict(pi=[…], vf=[…])")
        for size in sizes:
            if not is_number(size) or int(size) != size or size < 1:
                raise ValueError(f"policy_kwargs: {where} has a layer of size {size!r}; it must be a whole number, at least 1")


def check_optimizer_class(optimizer_class: Any) -> None:
    """
    :raises ValueError: one that cannot take a step on a gradient alone
    :raises TypeError: no class
    """
    if not callable(optimizer_class):
        raise TypeError(f"policy_kwargs: optimizer_class={optimizer_class!r} must be a class, such as torch.optim.Adam")
    name = getattr(optimizer_class, "__name__", repr(optimizer_class))
    if isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.SparseAdam):
        raise ValueError(f"{name} takes sparse gradients alone, and those of a policy are dense: use torch.optim.Adam")
    closure = inspect.signature(getattr(optimizer_class, "step", Optimizer.step)).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{name} evaluates the loss several times a step (its step needs a closure), and the algorithms give it one "
            "gradient: use a first-order optimizer, such as torch.optim.Adam"
        )


# ------------------------------------------------------------------------------------------------ spaces


def check_spaces(
    policy_class: Any, kwargs: Mapping[str, Any], observation_space: spaces.Space, action_space: spaces.Space
) -> None:
    """
    :param policy_class: the policy's class
    :param kwargs: what it is given; extractors that are not SB3's may take other observations
    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: SB3's policies cannot work with a space
    """
    _check_action_space(action_space, bool(kwargs.get("squash_output")))
    extractor = _extractor_class(policy_class, kwargs)
    if extractor is None:
        return
    if th.get_default_dtype() != th.float32:
        raise ValueError(
            f"torch's default dtype is {th.get_default_dtype()}, and {extractor.__name__} gives SB3's policies observations "
            "as float32: call torch.set_default_dtype(torch.float32), or write an extractor that converts"
        )
    is_dict = isinstance(observation_space, spaces.Dict)
    is_image = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3
    wanted = {
        CombinedExtractor: ("dictionaries", is_dict),
        NatureCNN: ("images", is_image),
        FlattenExtractor: ("arrays", not is_dict),
    }
    takes, fits = wanted[extractor]
    if not fits:
        raise ValueError(
            f"{policy_class.__name__} takes {takes}, and the observation space is {one_line(observation_space)}: use "
            f"{'MultiInputPolicy' if is_dict else 'CnnPolicy' if is_image else 'MlpPolicy'}"
        )
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError("the observation space is an empty Dict: the policy has nothing to act on")
    for key, part in parts.items():
        name = "the observation space" if key is None else f"the part {key!r} of the observation space"
        if is_dict:
            _check_key(key, name)
        _check_observation_part(part, name)
        if (is_image if extractor is NatureCNN else is_dict and is_image_space(part)) and min(
            (part.shape or ())[1:]
        ) < MIN_IMAGE:
            raise ValueError(
                f"{name} has images of shape {part.shape}, and SB3's NatureCNN takes {MIN_IMAGE} × {MIN_IMAGE} pixels or "
                "more: enlarge them (gymnasium.wrappers.ResizeObservation), or use MlpPolicy"
            )


def one_line(space: spaces.Space) -> str:
    """NumPy prints some bounds and sizes in several lines."""
    return " ".join(str(space).split())


def _check_action_space(space: spaces.Space, squashed: bool) -> None:
    if isinstance(space, spaces.Box) and squashed:
        width = space.high - space.low
        if not np.array_equal(width, space.high.astype(float) - space.low.astype(float)) and space.dtype.kind in "iu":
            raise ValueError(
                f"the action space is {one_line(space)}, whose width overflows {space.dtype}, and squash_output=True needs "
                "it: use a wider type, or leave squash_output out"
            )
    if isinstance(space, spaces.Box) and not np.prod(space.shape, dtype=int):
        raise ValueError(f"the action space is {one_line(space)}, whose actions have no numbers: give it at least one")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(
            f"the action space is MultiDiscrete({space.nvec.tolist()}), and SB3's policies take one row of choices: flatten "
            f"it, MultiDiscrete({space.nvec.ravel().tolist()}), and reshape the action in the environment"
        )
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int):
        raise ValueError(
            f"the action space is {one_line(space)}, and SB3's policies take one row of switches: flatten it, "
            f"MultiBinary({int(np.prod(space.shape))}), and reshape the action in the environment"
        )


def _check_observation_part(space: spaces.Space, name: str) -> None:
    if isinstance(space, spaces.Box) and (space.shape == () or 0 in space.shape):
        what, remedy = ("no dimension", "give it shape (1,)") if space.shape == () else ("no numbers", "leave it out")
        raise ValueError(f"{name} is {one_line(space)}, which has {what}: {remedy}")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(
            f"{name} is MultiDiscrete({space.nvec.tolist()}), and SB3's policies take one row of choices: flatten it, "
            f"MultiDiscrete({space.nvec.ravel().tolist()})"
        )


def _check_key(key: Any, name: str) -> None:
    """SB3 names a layer after every key, and torch does not allow every name."""
    try:
        nn.ModuleDict({key: nn.Identity()})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{name} has a name that SB3's CombinedExtractor cannot give to a layer ({error.args[0]}): rename the key"
        ) from None


def _extractor_class(policy_class: Any, kwargs: Mapping[str, Any]) -> type[nn.Module] | None:
    """SB3's extractor that a policy of SB3's will have; ``None`` where it may have another."""
    if "features_extractor_class" in kwargs:
        given = kwargs["features_extractor_class"]
        return given if given in (FlattenExtractor, NatureCNN, CombinedExtractor) else None
    if not _is_sb3s_constructor(policy_class):
        return None
    if issubclass(policy_class, MultiInputActorCriticPolicy):
        return CombinedExtractor
    return NatureCNN if issubclass(policy_class, ActorCriticCnnPolicy) else FlattenExtractor


def _is_sb3s_constructor(policy_class: Any) -> bool:
    """Whether a policy's arguments mean what they mean in SB3."""
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        return False
    return all(c.__module__.partition(".")[0] in _KNOWN for c in policy_class.__mro__ if "__init__" in vars(c))


# ------------------------------------------------------------------------------------------------ learn


def as_timesteps(total_timesteps: Any) -> Any:
    """
    A number of environment steps as SB3 takes it: also a float, infinity, or 0, which trains nothing.

    :raises ValueError: it is anything else
    """
    (number,) = without_arrays({"": total_timesteps}).values()
    if not is_number(number) or math.isnan(number) or number < 0:
        raise ValueError(f"total_timesteps={total_timesteps!r} must be a number of environment steps, not negative")
    return number


def check_learn(model: Any, callback: Any, log_interval: Any) -> None:
    """
    :param model: to train
    :param callback: as SB3 takes it
    :param log_interval: as SB3 takes it
    :raises ValueError: it cannot be trained so
    :raises TypeError: an argument is of the wrong kind
    """
    if model.env is None:
        raise ValueError(
            f"this {type(model).__name__} has no environment to learn in: load it with one, "
            f"{type(model).__name__}.load(path, env=env), or call model.set_env(env)"
        )
    if log_interval is not None and not (is_number(log_interval) and log_interval >= 1):
        raise ValueError(f"log_interval={log_interval!r} must be a number of rollouts, at least 1; None logs nothing")
    for one in callback if isinstance(callback, list) else [callback]:
        is_class = isinstance(one, type) and issubclass(one, BaseCallback)
        if is_class or not (one is None or callable(one) or isinstance(one, BaseCallback)):
            raise TypeError(f"callback={one!r} must be an object of a class of callbacks, a list of them, or a function")
    check_optimizer_class(type(model.policy.optimizer))
