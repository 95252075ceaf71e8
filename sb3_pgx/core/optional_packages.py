"""Optional packages, which training does not need. Their absence is reported before any work starts."""

import json
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMPARISON = ("matplotlib", "scipy", "yaml")
PLOTS = ("matplotlib",)
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
        raise ImportError(f"{what} need {', '.join(missing)}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """
    Return the command that installs an extra of this package, from where the package itself was installed: a clone, an
    archive, a repository, or a package index.

    :param extra: name of the extra
    """
    try:
        record = distribution("sb3_pgx").read_text("direct_url.json")
    except PackageNotFoundError:  # imported from a clone that is not installed
        clone = Path(__file__).resolve().parents[2]
        return _from_origin({"url": clone.as_uri(), "dir_info": {"editable": True}}, extra)
    return f'pip install "sb3_pgx[{extra}]"' if record is None else _from_origin(json.loads(record), extra)


def _from_origin(origin: dict[str, Any], extra: str) -> str:
    """
    Return the command for a package that was not installed from an index.

    :param origin: content of ``direct_url.json``, as the packaging specifications define it
    :param extra: name of the extra
    """
    url = origin["url"]
    if "dir_info" in origin:
        option = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {option}"{unquote(urlsplit(url).path)}[{extra}]"'
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return f'pip install "sb3_pgx[{extra}] @ {url}"'


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
