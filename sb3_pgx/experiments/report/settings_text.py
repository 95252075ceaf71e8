"""Writes the settings of a run as a person writes them in a hyperparameter file."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from sb3_pgx.settings.config_file import config_entry
from sb3_pgx.settings.configs import RunConfig

EMPTY: tuple[Any, ...] = (None, {}, (), [])


def settings_text(config: Mapping[str, Any]) -> str:
    """
    Return settings in one line, with the keys of a hyperparameter file. Empty ones are left out.

    :param config: the fields of a :class:`~sb3_pgx.settings.configs.RunConfig`, from a run of this process or from its file
    """
    entry = config_entry(RunConfig(**{"source": "", **_with_classes(config)}), otherwise=_name)
    return ", ".join(f"{name}={value}" for name, value in entry.items() if value not in EMPTY)


def _with_classes(value: Any) -> Any:
    """Return a value whose classes are classes again. The file of a run has their ``str``: ``<class 'module.Name'>``."""
    if isinstance(value, Mapping):
        return {name: _with_classes(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_classes, value))
    if isinstance(value, str) and (found := re.fullmatch(r"<class '([\w.]+)\.(\w+)'>", value)):
        return getattr(sys.modules.get(found[1]), found[2], f"{found[1]}.{found[2]}")
    return value


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else str(value)
