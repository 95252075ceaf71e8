"""Shared by the commands: exit statuses, the types of user errors, and the options of commands that train."""

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

USER_ERRORS = (ValueError, ImportError, OSError)
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--configs`` and ``--vec-env``."""
    parser.add_argument("--workers", type=int, help="runs at the same time (default: number of processors)")
    parser.add_argument("--configs", type=Path, metavar="FOLDER", help="hyperparameter files in rl_zoo3's format")
    add_vec_env(parser)


def add_vec_env(parser: argparse.ArgumentParser) -> None:
    """Add ``--vec-env``."""
    parser.add_argument(
        "--vec-env",
        metavar="NAME",
        help="how the environments of a run step: dummy (one by one), subproc (in a process each), vector (as arrays) or "
        "envpool (as arrays, in C++) (default: vec_env of the hyperparameter files, or dummy)",
    )


def usage_error(error: BaseException) -> int:
    """Print the error in one sentence. Return the exit status."""
    print(f"sb3-pgx: {error}", file=sys.stderr)
    return USAGE_ERROR
