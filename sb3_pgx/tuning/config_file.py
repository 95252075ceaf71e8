"""Writes a configuration as a hyperparameter file that ``load_config`` reads back unchanged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import write_text
from sb3_pgx.settings.configs import DUMMY, RunConfig
from sb3_pgx.settings.expressions import expression_for


def write_config(path: Path, env_id: str, config: RunConfig, comment: str) -> None:
    """
    Write a hyperparameter file with one entry.

    :param path: file to write; replaced if it exists
    :param env_id: Gymnasium's name of the environment, which is the key of the entry
    :param config: the settings
    :param comment: lines of comment at the top of the file
    :raises ValueError: a value cannot be written in such a file
    """
    import yaml

    text = yaml.safe_dump({env_id: config_entry(config)}, sort_keys=False, allow_unicode=True, width=1000)
    write_text(path, "".join(f"# {line}\n" for line in comment.splitlines()) + text)


def config_entry(config: RunConfig) -> dict[str, Any]:
    """Return the configuration in rl_zoo3's format."""
    hyperparameters = dict(config.hyperparameters)
    if "policy_kwargs" in hyperparameters:
        hyperparameters["policy_kwargs"] = f"dict({_arguments(hyperparameters['policy_kwargs'] or {})})"
    wrappers = [{name: kwargs} if kwargs else name for name, kwargs in config.wrappers]
    around = {
        "env_wrapper": wrappers,
        "frame_stack": config.frame_stack,
        "vec_env": None if config.vec_env == DUMMY else config.vec_env,
        "env_kwargs": config.env_kwargs,
        "normalize": _normalize(config),
        "n_envs": config.n_envs,
        "n_timesteps": config.n_timesteps,
        "policy": config.policy,
    }
    return {**{name: value for name, value in around.items() if value}, **hyperparameters}


def _normalize(config: RunConfig) -> bool | dict[str, Any]:
    """Return the entry ``normalize``, without γ, which readers of the file take from the algorithm's hyperparameters."""
    if config.normalize is None:
        return False
    kwargs = dict(config.normalize)
    if "gamma" in config.hyperparameters:
        kwargs.pop("gamma", None)
    return kwargs or True


def _arguments(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in kwargs.items())


def _literal(value: Any) -> str:
    """Return the expression of a value in a hyperparameter file."""
    if isinstance(value, Mapping):
        return f"dict({_arguments(value)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, tuple):
        return f"({''.join(f'{_literal(item)}, ' for item in value)})"
    if isinstance(value, type):
        if name := expression_for(value):
            return name
    elif value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise ValueError(f"{value!r} cannot be written in a hyperparameter file")
