"""The files of a checkout that code depends on, found by its imports."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from inspect import getfile
from pathlib import Path

# Imports are not followed into these: they name, choose and report, and no measured number depends on them.
ENDS = (
    "benchmarks/provenance.py",
    "benchmarks/speed/cases.py",
    "benchmarks/speed/report.py",
    "benchmarks/speed/results.py",
    "benchmarks/speed/timed_code.py",
    "sb3_pgx/__init__.py",
    "sb3_pgx/diagnostics",
    "sb3_pgx/experiments",
    "sb3_pgx/pages",
    "sb3_pgx/registry.py",
)
ROOTS = ("sb3_pgx", "benchmarks")


def files_reached(starts: Iterable[str], root: Path) -> list[Path]:
    """
    Return the files that some files import, directly or not, with these files themselves.

    Imports inside functions count. C++ files count if a module of their folder does. A start may be named in ``ENDS``.

    :param starts: Python files and folders, relative to ``root``; a folder stands for all its files
    :param root: the checkout
    :return: absolute paths, sorted
    :raises FileNotFoundError: a start does not exist
    """
    reached: set[Path] = set()
    waiting = [file for start in starts for file in _files_of(start, root)]
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += [x for x in _imported(file, root) if not _is_end(x.relative_to(root).as_posix())]
    kernels = {kernel for folder in {file.parent for file in reached} for kernel in folder.glob("*.cpp")}
    return sorted(reached | kernels)


def files_that_define(classes: Iterable[type], env_ids: Iterable[str], root: Path) -> list[str]:
    """
    Return the files of the checkout that define classes, and the modules in which environments' ids are looked up.

    :param classes: algorithms; those of other packages are left out
    :param env_ids: such as ``"sb3_pgx.tasks:Recall-v0"``; environments of other packages are left out
    :param root: the checkout
    :return: paths relative to ``root``
    """
    modules = [import_module(env_id.partition(":")[0]) for env_id in env_ids if ":" in env_id]
    paths = [Path(file).resolve() for file in (*map(getfile, classes), *map(getfile, modules))]
    ours = [root / name for name in ROOTS]  # packages may be installed inside of the checkout, too
    return [path.relative_to(root).as_posix() for path in paths if any(map(path.is_relative_to, ours))]


def _files_of(start: str, root: Path) -> list[Path]:
    path = root / start
    if not path.exists():
        raise FileNotFoundError(f"{start} is a start of the hashed code and does not exist; correct the name in benchmarks")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _is_end(name: str) -> bool:
    return any(name == end or name.startswith(f"{end}/") for end in ENDS)


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files of the checkout that a file imports, with the ``__init__.py`` of their packages and of its own."""
    own = ".".join(file.relative_to(root).with_suffix("").parts)
    for name in (own, *_names_imported(file.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] in ROOTS:
            for n in range(1, len(parts) + 1):
                path = root.joinpath(*parts[:n])
                yield from (x for x in (path.with_suffix(".py"), path / "__init__.py") if x.is_file())


@cache
def _names_imported(source: str) -> frozenset[str]:
    """Return dotted names of modules, and of what is imported from modules, which may be a module itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)
