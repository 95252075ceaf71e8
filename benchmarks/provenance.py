"""Provenance of a measurement: commit, code and machine. Claim and speed records store the same facts."""

import ast
import io
import json
import tokenize
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.dependencies import files_reached
from sb3_pgx.pages.provenance import git, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS_ALONE = "benchmarks/results"  # written while measuring, so it does not make the tree unclean


def code_hash(starts: Iterable[str], settings: Any = None, root: Path = ROOT) -> str:
    """
    Return a hash of code and of what it imports from this repository.

    Docstrings, comments and blank lines do not count, so rewording does not make a record stale. Nor does code that the
    measured code never imports, such as another algorithm.

    :param starts: files and folders that are measured or that measure, relative to ``root``
    :param settings: hyperparameters of the measurement, in JSON's types
    :param root: the checkout
    :return: 16 hexadecimal digits
    :raises FileNotFoundError: a start does not exist
    """
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for file in files_reached(starts, root):
        digest.update(f"\n{file.relative_to(root).as_posix()}\n".encode())
        digest.update(code_of(file).encode())
    return digest.hexdigest()[:16]


def code_of(file: Path) -> str:
    """Return a file of Python or C++ without docstrings, comments and blank lines."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return without_words(source)
    lines = (line.partition("//")[0].rstrip() for line in source.split("\n"))
    return "\n".join(filter(None, lines))


@cache
def without_words(source: str) -> str:
    """Return Python source without docstrings, comments and blank lines."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            last = text.end_lineno or text.lineno
            if not lines[text.lineno - 1][: text.col_offset].strip():  # on lines of its own
                lines[text.lineno - 1 : last] = [""] * (last - text.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def provenance(root: Path = ROOT) -> dict[str, Any]:
    """
    Return the commit, whether the tree was clean, and the machine. Call it before the measurement starts.

    :param root: the checkout; without git the commit is ``None`` and the tree counts as not clean
    """
    commit = git(root, "rev-parse", "HEAD")
    return {"commit": commit, "clean": commit is not None and not uncommitted(root), "machine": machine()}


def uncommitted(root: Path = ROOT, *paths: str) -> list[str]:
    """
    Return the files that differ from the last commit, including new ones but not results.

    :param root: the checkout
    :param paths: look only at these paths, such as ``benchmarks/claims``; default: everywhere
    """
    status = git(root, "status", "--porcelain", "--", *(paths or (".",)), f":(exclude){RESULTS_ALONE}")
    return [line[3:] for line in (status or "").splitlines()]
