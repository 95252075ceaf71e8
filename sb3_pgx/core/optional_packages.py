"""Packages that training does not need; asked for before any work starts."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

COMPARISON = ("matplotlib", "scipy", "tqdm", "yaml")
PLOTS = ("matplotlib", "plotly")
ZOO = ("rl_zoo3", "requests", "seaborn")


def require_extra(what: str = "comparisons", packages: tuple[str, ...] = COMPARISON, extra: str = "plots") -> None:
    """
    :param what: needs them, for the error
    :param packages: by the names under which they are imported
    :param extra: that holds them
    :raises ImportError: one of them is not installed; says how to install it
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{what} need {", ".join(missing)}: pip install "sb3_pgx[{extra}]"')


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed, by name."""
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
