"""Packages that only comparisons need; asked for before any training starts."""

from importlib.util import find_spec

PACKAGES = ("matplotlib", "scipy", "tqdm", "yaml")


def require_extra() -> None:
    """:raises ImportError: a package of the extra ``plots`` is not installed; says how to install it"""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f'comparisons need {", ".join(missing)}: pip install "sb3_pgx[plots]"')
