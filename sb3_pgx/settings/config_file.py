"""Writes a configuration as a hyperparameter file that ``load_config`` reads back unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import write_text
from sb3_pgx.settings.configs import DUMMY, RunConfig
from sb3_pgx.settings.expressions import literal


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


def _refuse(value: Any) -> str:
    raise ValueError(f"{value!r} cannot be written in a hyperparameter file")


def config_entry(config: RunConfig, otherwise: Callable[[Any], str] = _refuse) -> dict[str, Any]:
    """
    Return the configuration in rl_zoo3's format. Entries that are empty or say nothing are left out.

    :param config: the settings
    :param otherwise: as of :func:`~sb3_pgx.settings.expressions.literal`, for values in ``policy_kwargs``
    :raises ValueError: there is such a value, and ``otherwise`` is not given
    """
    hyperparameters = dict(config.hyperparameters)
    if "policy_kwargs" in hyperparameters:
        hyperparameters["policy_kwargs"] = literal(hyperparameters["policy_kwargs"] or {}, otherwise)
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
