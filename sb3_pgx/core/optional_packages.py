"""Optional packages, which training does not need. Their absence is reported before any work starts."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

COMPARISON = ("matplotlib", "scipy", "tqdm", "yaml")
ZOO = ("rl_zoo3", "requests", "seaborn")


def require_extra(what: str = "comparisons", packages: tuple[str, ...] = COMPARISON, extra: str = "plots") -> None:
    """
    Check that optional packages are installed.

    :param what: plural name of what needs them, for the error
    :param packages: names under which they are imported
    :param extra: extra of this package that installs them
    :raises ImportError: a package is missing; the message says how to install it
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{what} need {", ".join(missing)}: pip install "sb3_pgx[{extra}]"')


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """
    Return the versions of the distributions that are installed, by name.

    :param distributions: names on the package index
    """
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
