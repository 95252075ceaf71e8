"""Shared by the commands: exit statuses, the form of help texts and errors, and the options of commands that train."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from sb3_pgx.settings.amounts import read_amount, read_duration

if TYPE_CHECKING:
    from sb3_pgx.experiments.pool import Runner
    from sb3_pgx.experiments.shards import Shard

USER_ERRORS = (ValueError, ImportError, OSError)
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
WIDTH = 100  # of descriptions in help texts
ENVIRONMENT = "name of the environment: CartPole-v1, ALE/Pong-v5, or my_module:MyEnv-v0 to import a module first"
ENVIRONMENTS = ENVIRONMENT.replace("name of the environment", "names of the environments")

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
T = TypeVar("T")


class _Missing(Exception):
    """An argument is missing."""


class CommandParser(argparse.ArgumentParser):
    """
    A parser whose help ends with examples, and which reports a mistake in one sentence, with the nearest names.

    :param examples: lines of a shell
    """

    def __init__(self, prog: str | None = None, *, description: str = "", examples: tuple[str, ...] = (), **kwargs: Any):
        epilog = "\n  ".join(["examples:", *examples]) if examples else None
        kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=textwrap.fill(description, WIDTH), epilog=epilog, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments. The parser of a command reports the options that the command does not know."""
        try:
            parsed, unknown = super().parse_known_args(args, namespace)
        except _Missing as missing:  # an option that is missing may have been misspelt
            self._refuse([a for a in (sys.argv[1:] if args is None else args) if a.startswith("--") and not self._knows(a)])
            self._exit_with(str(missing))
        self._refuse(unknown)
        return parsed, unknown

    def _knows(self, option: str) -> bool:
        return any(known.startswith(option.partition("=")[0]) for known in self._options())

    def _options(self) -> list[str]:
        return re.findall(r"--[\w-]+", self.format_usage())

    def _refuse(self, unknown: list[str]) -> None:
        if unknown:
            hints = (_nearest(name.partition("=")[0], self._options()) for name in unknown if name.startswith("-"))
            self._exit_with(f"{' '.join(unknown)} is unknown{next(filter(None, hints), '')}")

    def error(self, message: str) -> NoReturn:
        """Print a mistake and end the process."""
        if "required: " in message:
            raise _Missing(message)
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", wrong[2])
            hint = _nearest(wrong[1], known) or f"; choose one of {', '.join(known)}"
            message = f"{wrong[1]!r} is unknown{hint}"
        self._exit_with(message)

    def _exit_with(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} ({self.prog} -h shows the help)\n")


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def option_type(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function for ``type`` of an option; the sentence of its ``ValueError`` is shown."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


amount, seconds = option_type(read_amount), option_type(read_duration)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--timeout-per-run``, ``--ray``, ``--shard``, ``--configs`` and ``--vec-env``."""
    parser.add_argument("--workers", type=amount, help="runs at the same time (default: number of processors)")
    add_timeout(parser, "run")
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


def add_timeout(parser: argparse.ArgumentParser, work: str) -> None:
    """Add ``--timeout-per-run``, or the same for other work."""
    parser.add_argument(
        f"--timeout-per-{work}",
        type=seconds,
        metavar="TIME",
        help=f"end a {work} that takes longer, and count it as failed: 90 (seconds), 15m or 2h (default: no limit)",
    )


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
        return ray_runner(args.ray, repeat_failed, args.timeout_per_run)
    return nullcontext(partial(run_all, timeout=args.timeout_per_run) if runner is None else runner)


def usage_error(error: BaseException) -> int:
    """Print the error in one sentence. Return the exit status."""
    print(f"sb3-pgx: {error}", file=sys.stderr)
    return USAGE_ERROR
