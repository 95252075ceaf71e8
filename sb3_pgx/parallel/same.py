"""Checks that all processes of a run do the same."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sb3_pgx.parallel.processes import Processes

# Packages whose versions must be the same everywhere.
PACKAGES = ("sb3_pgx", "stable_baselines3", "gymnasium", "numpy", "torch")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on."""
    return {"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def check_same(processes: Processes, values: Mapping[str, Any]) -> None:
    """
    Check that versions and given values are the same in all processes, which must all call this.

    :param processes: of the run
    :param values: by name; what they print as is compared
    :raises ValueError: they are not; the same error in all processes
    """
    mine = {**{f"the version of {name}": x for name, x in versions().items()}, **{k: repr(x) for k, x in values.items()}}
    everywhere = processes.exchange(mine)
    for name in dict.fromkeys(name for theirs in everywhere for name in theirs):
        of_first, *others = [theirs.get(name) for theirs in everywhere]
        for rank, other in enumerate(others, 1):
            if other != of_first:
                raise ValueError(
                    f"{name} is {of_first} in process 0 and {other} in process {rank}: all processes of a run must be started "
                    "with the same script, arguments and packages"
                )
