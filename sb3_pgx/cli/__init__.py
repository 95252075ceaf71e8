"""The command ``sb3-pgx``: parses arguments, calls the package, and reports user errors in one sentence."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sb3_pgx.cli import compare, doctor, graphs, plot, tune, zoo
from sb3_pgx.cli.common import INTERRUPTED, CommandParser

COMMANDS = (zoo, tune, compare, plot, doctor, graphs)  # in the order of the help text


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command. Modules in the working folder can be imported, so that ``--env my_envs:Walk-v0`` finds ``my_envs.py``.

    :param argv: arguments; default: those of the process
    :return: exit status: 0; 1 if a run failed or the doctor found a problem; 2 for a user error; 130 after Ctrl-C
    """
    args = parser().parse_args(argv)
    try:
        with _importing_from(os.getcwd()):
            return args.command(args)
    except KeyboardInterrupt as interruption:
        print(f"\ninterrupted: {interruption}" if str(interruption) else "\ninterrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    """Let this process, and those that it starts, import modules from a folder. They replace no installed ones."""
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def parser() -> CommandParser:
    """Return the parser of ``sb3-pgx`` and of all its commands."""
    parser = CommandParser(
        prog="sb3-pgx",
        description="Policy-gradient algorithms for Stable-Baselines3. `sb3-pgx COMMAND -h` explains a command.",
        examples=(
            "sb3-pgx compare --env CartPole-v1 --algos ppo a2c sb3:ppo --timesteps 50k",
            "sb3-pgx train --algo ppo --env CartPole-v1",
            "sb3-pgx doctor env my_module:MyEnv-v0",
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """Imports the package, which is slow, only if the version is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import sb3_pgx

        print(f"sb3_pgx {sb3_pgx.__version__}")
        parser.exit()
