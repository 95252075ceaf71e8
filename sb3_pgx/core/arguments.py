"""Checks of the arguments of constructors and ``learn``, before anything is built. Errors name the value and the remedy."""

import inspect
import math
import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import get_device
from torch import nn
from torch.optim import Optimizer

from sb3_pgx.core.checks import check_counts, is_number, without_arrays
from sb3_pgx.core.errors import first_line, one_line
from sb3_pgx.core.mixed_spaces import is_mixed, parts_of
from sb3_pgx.core.recurrent_evaluation import is_recurrent

MAX_SEED = 2**32 - 1  # NumPy's limit
# Smallest width and height of images for SB3's convolutions.
MIN_IMAGE = 36
# Beyond ± this, σ is 0 or infinite in float32.
MAX_LOG_STD = 87.0
# Packages whose policy constructors take the same arguments as SB3's.
_KNOWN = ("sb3_pgx", "stable_baselines3", "sb3_contrib", "torch", "builtins")

# ------------------------------------------------------------------------------------------------ before SB3's constructor


def check_policy(policy: Any, aliases: Collection[str]) -> None:
    """
    Check the policy argument of a constructor.

    :param policy: name of a policy, or a policy class
    :param aliases: known names
    :raises ValueError: the name is unknown
    :raises TypeError: the argument is neither a name nor a class
    """
    if isinstance(policy, str) and policy not in aliases:
        raise ValueError(f'policy="{policy}" is unknown; choose one of {", ".join(aliases)}, or give a class')
    if not isinstance(policy, str) and not callable(policy):
        raise TypeError(f"policy={policy!r} must be one of {', '.join(aliases)}, or a class")


def check_env_argument(env: Any) -> None:
    """
    Check the environment argument of a constructor. SB3 itself handles environments of OpenAI's gym.

    :param env: environment
    :raises TypeError: SB3 could not step it
    """
    name = type(env).__name__
    if isinstance(env, type) or not (hasattr(env, "reset") and hasattr(env, "step")):
        what = f"the class {env.__name__}" if isinstance(env, type) else f"of type {name}"
        raise TypeError(
            f"env is {what}, but must be an environment, its id, or a VecEnv of SB3; call a function that makes one, or pass "
            "it to stable_baselines3.common.env_util.make_vec_env"
        )


def check_device(device: Any) -> None:
    """
    Check the device argument of a constructor.

    :param device: device, or its name
    :raises ValueError: torch does not know the device
    """
    try:
        get_device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f'device={device!r} is unknown; choose "auto", "cpu" or "cuda" ({first_line(error)})') from None


def check_verbose(verbose: Any) -> None:
    """
    Check the verbose argument of a constructor.

    :param verbose: 0, 1 or 2; ``True`` is accepted, too
    :raises TypeError: the argument is not a whole number
    """
    if not isinstance(verbose, Integral):
        raise TypeError(f"verbose={verbose!r} must be 0 (nothing), 1 (messages) or 2 (debug)")


def check_mapping(**arguments: Any) -> None:
    """
    Check that arguments are dictionaries or ``None``.

    :param arguments: arguments by name
    :raises TypeError: an argument is neither
    """
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name}={value!r} must be a dictionary")


# ------------------------------------------------------------------------------------------------ SB3's arguments


def check_sb3s_arguments(model: Any) -> None:
    """
    Check the arguments that all of SB3's on-policy algorithms have; SB3 itself checks few of them.

    :param model: model whose attributes to check
    :raises ValueError: an argument is invalid
    :raises TypeError: an argument has the wrong type
    """
    check_common_arguments(model)
    if model.rollout_buffer_class is not None and not callable(model.rollout_buffer_class):
        raise TypeError(f"rollout_buffer_class={model.rollout_buffer_class!r} must be a class, or None")
    _check_buffer_arguments(model.rollout_buffer_class or RolloutBuffer, model.rollout_buffer_kwargs or {})


def check_common_arguments(model: Any) -> None:
    """
    Check the arguments that all of SB3's algorithms have.

    :param model: model whose attributes to check
    :raises ValueError: an argument is invalid
    :raises TypeError: an argument has the wrong type
    """
    window, freq, seed = model._stats_window_size, model.sde_sample_freq, model.seed
    if window is not None:  # None keeps all episodes
        check_counts(0, stats_window_size=window)
    if not is_number(freq) or not isinstance(freq, int):
        raise ValueError(f"sde_sample_freq={freq!r} must be a whole number of steps; -1 draws noise once per rollout")
    if seed is not None and not (is_number(seed) and isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise ValueError(f"seed={seed!r} must be a whole number from 0 to {MAX_SEED}, or None")
    if model.tensorboard_log is not None and not isinstance(model.tensorboard_log, str | os.PathLike):
        raise TypeError(f"tensorboard_log={model.tensorboard_log!r} must be the path of a folder, or None")


def _check_buffer_arguments(buffer_class: Any, kwargs: Mapping[str, Any]) -> None:
    given = dict(device=None, gamma=0.0, gae_lambda=0.0, n_envs=1)
    try:
        inspect.signature(buffer_class).bind(0, None, None, **{**given, **kwargs})
    except TypeError as error:
        raise TypeError(
            f"rollout_buffer_class={buffer_class!r} cannot be made with rollout_buffer_kwargs={dict(kwargs)!r} ({error}): it "
            "gets the arguments of SB3's RolloutBuffer in addition to these"
        ) from None


def check_policy_kwargs(policy_class: Any, kwargs: Mapping[str, Any]) -> None:
    """
    Check the arguments of SB3's policies. For a class with its own constructor, only the optimizer's are checked, since other
    names may mean something else.

    :param policy_class: class of the policy
    :param kwargs: arguments of its constructor
    :raises ValueError: an argument is invalid
    :raises TypeError: an argument has the wrong type
    """
    optimizer_class, optimizer_kwargs = kwargs.get("optimizer_class"), kwargs.get("optimizer_kwargs")
    if optimizer_class is not None:
        check_optimizer_class(optimizer_class)
    check_mapping(optimizer_kwargs=optimizer_kwargs, features_extractor_kwargs=kwargs.get("features_extractor_kwargs"))
    if "lr" in (optimizer_kwargs or {}):
        raise ValueError("policy_kwargs: optimizer_kwargs has lr: set the algorithm's learning_rate instead")
    if not _is_sb3s_constructor(policy_class):
        return
    _check_net_arch(kwargs.get("net_arch"))
    if is_recurrent(policy_class):
        _check_recurrent_kwargs(kwargs)
    for name in ("activation_fn", "features_extractor_class"):
        if name in kwargs and not callable(kwargs[name]):
            raise TypeError(f"policy_kwargs: {name}={kwargs[name]!r} must be a class, such as torch.nn.Tanh of activations")
    log_std = kwargs.get("log_std_init", 0.0)
    if not is_number(log_std) or not abs(log_std) <= MAX_LOG_STD:
        raise ValueError(
            f"policy_kwargs: log_std_init={log_std!r} must be a number within ±{MAX_LOG_STD:g}, beyond which the standard "
            "deviation is 0 or infinite"
        )


def _check_recurrent_kwargs(kwargs: Mapping[str, Any]) -> None:
    check_counts(**{name: kwargs[name] for name in ("lstm_hidden_size", "n_lstm_layers") if name in kwargs})
    check_mapping(lstm_kwargs=kwargs.get("lstm_kwargs"))
    # sb3-contrib raises an AssertionError here, which scripts may catch.
    assert not (kwargs.get("shared_lstm") and kwargs.get("enable_critic_lstm", True)), (
        "policy_kwargs: with shared_lstm=True the critic reads the actor's network, and has none of its own: set "
        "enable_critic_lstm=False"
    )


def _check_net_arch(net_arch: Any) -> None:
    """Check a list of sizes, or a dictionary of lists for ``pi`` and ``vf``. SB3 before 1.8 put the dictionary into a list."""
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
    Check that an optimizer can take a step on a dense gradient.

    :param optimizer_class: class of the optimizer
    :raises ValueError: it needs a closure or sparse gradients
    :raises TypeError: the argument is not a class
    """
    if not callable(optimizer_class):
        raise TypeError(f"policy_kwargs: optimizer_class={optimizer_class!r} must be a class, such as torch.optim.Adam")
    name = getattr(optimizer_class, "__name__", repr(optimizer_class))
    if isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.SparseAdam):
        raise ValueError(f"{name} takes only sparse gradients, but those of a policy are dense: use torch.optim.Adam")
    closure = inspect.signature(getattr(optimizer_class, "step", Optimizer.step)).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{name} evaluates the loss several times per step (its step needs a closure), but the algorithms provide one "
            "gradient: use a first-order optimizer, such as torch.optim.Adam"
        )


# ------------------------------------------------------------------------------------------------ spaces


def check_spaces(
    policy_class: Any, kwargs: Mapping[str, Any], observation_space: spaces.Space, action_space: spaces.Space
) -> None:
    """
    Check that a policy can work with the spaces of an environment.

    :param policy_class: class of the policy
    :param kwargs: arguments of its constructor; extractors other than SB3's may take other observations
    :param observation_space: observation space of the environment
    :param action_space: action space of the environment
    :raises ValueError: SB3's policies cannot work with a space
    """
    check_action_space(action_space, bool(kwargs.get("squash_output")))
    extractor = _extractor_class(policy_class, kwargs)
    if extractor is None:
        return
    if th.get_default_dtype() != th.float32:
        raise ValueError(
            f"torch's default dtype is {th.get_default_dtype()}, but {extractor.__name__} gives SB3's policies observations "
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
            f"{policy_class.__name__} takes {takes}, but the observation space is {one_line(observation_space)}: use "
            f"{'MultiInput' if is_dict else 'Cnn' if is_image else 'Mlp'}{'Lstm' if is_recurrent(policy_class) else ''}Policy"
        )
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError("the observation space is an empty Dict: the policy has nothing to act on")
    for key, part in parts.items():
        name = "the observation space" if key is None else f"the part {key!r} of the observation space"
        if is_dict:
            check_key(key, name)
        _check_observation_part(part, name)
        if (is_image if extractor is NatureCNN else is_dict and is_image_space(part)) and min(
            (part.shape or ())[1:]
        ) < MIN_IMAGE:
            raise ValueError(
                f"{name} has images of shape {part.shape}, but SB3's NatureCNN needs at least {MIN_IMAGE} × {MIN_IMAGE} "
                "pixels: enlarge them (gymnasium.wrappers.ResizeObservation), or use MlpPolicy"
            )


def check_action_space(space: spaces.Space, squashed: bool = False) -> None:
    """
    Check that a policy can act in an action space.

    :param space: action space of the environment
    :param squashed: whether the policy squashes its actions
    :raises ValueError: no policy can act in it
    """
    if not is_mixed(space):
        _check_action_part(space, squashed, "the action space")
        return
    parts = parts_of(space)
    if not parts:
        raise ValueError(f"the action space is an empty {type(space).__name__}: the policy has nothing to decide")
    if squashed:
        raise ValueError(f"squash_output=True needs Box actions, but the action space is {one_line(space)}: leave it out")
    for key, part in parts.items():
        name = f"the part {key!r} of the action space"
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                f"{name} is {one_line(part)}, but the parts of a {type(space).__name__} must be Box, Discrete, MultiDiscrete "
                "or MultiBinary: flatten the action space to one level"
            )
        _check_action_part(part, False, name)
        if isinstance(part, spaces.Box) and not part.is_bounded():
            raise ValueError(f"{name} is {one_line(part)}: give it finite bounds, to which actions are clipped")


def _check_action_part(space: spaces.Space, squashed: bool, name: str) -> None:
    if isinstance(space, spaces.Box) and squashed:
        width = space.high - space.low
        if not np.array_equal(width, space.high.astype(float) - space.low.astype(float)) and space.dtype.kind in "iu":
            raise ValueError(
                f"{name} is {one_line(space)}, whose width overflows {space.dtype}, but squash_output=True needs "
                "it: use a wider type, or remove squash_output"
            )
    if isinstance(space, spaces.Box) and not np.prod(space.shape, dtype=int):
        raise ValueError(f"{name} is {one_line(space)}, whose actions are empty: give them at least one number")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(
            f"{name} is MultiDiscrete({space.nvec.tolist()}), but SB3's policies take one row of choices: flatten "
            f"it, MultiDiscrete({space.nvec.ravel().tolist()}), and reshape the action in the environment"
        )
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int):
        raise ValueError(
            f"{name} is {one_line(space)}, but SB3's policies take one row of switches: flatten it, "
            f"MultiBinary({int(np.prod(space.shape))}), and reshape the action in the environment"
        )


def _check_observation_part(space: spaces.Space, name: str) -> None:
    if isinstance(space, spaces.Box) and (space.shape == () or 0 in space.shape):
        what, remedy = ("no dimension", "give it shape (1,)") if space.shape == () else ("no numbers", "leave it out")
        raise ValueError(f"{name} is {one_line(space)}, which has {what}: {remedy}")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(
            f"{name} is MultiDiscrete({space.nvec.tolist()}), but SB3's policies take one row of choices: flatten it, "
            f"MultiDiscrete({space.nvec.ravel().tolist()})"
        )


def check_key(key: Any, name: str) -> None:
    """
    Check that a key can name a layer: torch does not allow all names.

    :param key: key of a dictionary
    :param name: of the dictionary, for the error
    :raises ValueError: it cannot
    """
    try:
        nn.ModuleDict({key: nn.Identity()})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{name} has a key that cannot name a layer, as in SB3's CombinedExtractor ({error.args[0]}): rename the key"
        ) from None


def _extractor_class(policy_class: Any, kwargs: Mapping[str, Any]) -> type[nn.Module] | None:
    """Return the features extractor of SB3 that a policy will use; ``None`` if it may use another."""
    if "features_extractor_class" in kwargs:
        given = kwargs["features_extractor_class"]
        return given if given in (FlattenExtractor, NatureCNN, CombinedExtractor) else None
    if not _is_sb3s_constructor(policy_class):
        return None
    constructors = (inspect.signature(vars(c)["__init__"]).parameters for c in policy_class.__mro__ if "__init__" in vars(c))
    return next(known["features_extractor_class"].default for known in constructors if "features_extractor_class" in known)


def _is_sb3s_constructor(policy_class: Any) -> bool:
    """Return whether a policy's arguments have the same meaning as in SB3."""
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        return False
    return all(c.__module__.partition(".")[0] in _KNOWN for c in policy_class.__mro__ if "__init__" in vars(c))


# ------------------------------------------------------------------------------------------------ learn


def as_timesteps(total_timesteps: Any) -> Any:
    """
    Return a number of environment steps, in any form that SB3 accepts: also a float, infinity, or 0, which trains nothing.

    :param total_timesteps: number of steps
    :raises ValueError: the argument is not a number >= 0
    """
    (number,) = without_arrays({"": total_timesteps}).values()
    if not is_number(number) or math.isnan(number) or number < 0:
        raise ValueError(f"total_timesteps={total_timesteps!r} must be a number of environment steps, not negative")
    return number


def check_learn(model: Any, callback: Any, log_interval: Any) -> None:
    """
    Check the arguments of ``learn``.

    :param model: model to train
    :param callback: a callback, a list of callbacks, a function, or ``None``
    :param log_interval: rollouts between two log dumps, or ``None``
    :raises ValueError: the model has no environment, or an argument is invalid
    :raises TypeError: an argument has the wrong type
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
            raise TypeError(f"callback={one!r} must be a callback object, a list of them, or a function")
    optimizer = getattr(model.policy, "optimizer", None)  # an off-policy algorithm's networks have one each
    if optimizer is not None:
        check_optimizer_class(type(optimizer))
