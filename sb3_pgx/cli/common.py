"""Shared by the commands: exit statuses, the types of user errors, and the options of commands that train."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sb3_pgx.experiments.pool import Runner
    from sb3_pgx.experiments.shards import Shard

USER_ERRORS = (ValueError, ImportError, OSError)
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--ray``, ``--shard``, ``--configs`` and ``--vec-env``."""
    parser.add_argument("--workers", type=int, help="runs at the same time (default: number of processors)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train on a Ray cluster, each run as a task with one processor: host:port, auto for the cluster that this "
        "machine belongs to, or local to start one here",
    )
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="train only the K-th of N shares of the runs, without a report: for batch systems that start the same command N "
        "times with the same --output; then run it without --shard",
    )
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


def read_shard_option(args: argparse.Namespace) -> "Shard":
    """
    Return the share of the runs to train.

    :param args: with the options of :func:`add_run_options`, and ``output``
    :raises ValueError: it is no share, or options contradict each other
    """
    from sb3_pgx.experiments.shards import WHOLE, read_shard

    if args.ray is not None and args.workers is not None:
        raise ValueError("--workers is for this machine: with --ray, Ray decides how many runs train at the same time")
    if args.shard is None:
        return WHOLE
    if args.ray is not None:
        raise ValueError("--shard and --ray exclude each other: with --ray, one command spreads all runs over the cluster")
    if args.output is None:
        raise ValueError("--shard needs --output: the folder that all shards share")
    return read_shard(args.shard)


def choose_runner(
    args: argparse.Namespace, runner: "Runner | None" = None, repeat_failed: bool = True
) -> "AbstractContextManager[Runner]":
    """
    Return a context with the function that executes the runs: on the Ray cluster of ``--ray``, or else in processes.

    :param args: with the options of :func:`add_run_options`
    :param runner: what replaces the processes
    :param repeat_failed: whether a cluster tries runs again that raise an error
    """
    from sb3_pgx.experiments.pool import run_all
    from sb3_pgx.experiments.ray_cluster import ray_runner

    if args.ray is not None:
        return ray_runner(args.ray, repeat_failed)
    return nullcontext(run_all if runner is None else runner)


def usage_error(error: BaseException) -> int:
    """Print the error in one sentence. Return the exit status."""
    print(f"sb3-pgx: {error}", file=sys.stderr)
    return USAGE_ERROR
