"""The command ``sb3-pgx``: parses arguments, calls the package, and reports user errors in one sentence."""

import argparse
import sys
from collections.abc import Sequence

from sb3_pgx.cli import compare, doctor, graphs, plot, tune, zoo
from sb3_pgx.cli.common import INTERRUPTED

COMMANDS = (zoo, tune, compare, plot, doctor, graphs)  # in the order of the help text


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param argv: arguments; default: those of the process
    :return: exit status: 0; 1 if every run failed or the doctor found a problem; 2 for a user error; 130 after Ctrl-C
    """
    args = parser().parse_args(argv)
    try:
        return args.command(args)
    except KeyboardInterrupt:
        print("interrupted; results of finished runs are kept", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``sb3-pgx`` and of all its commands."""
    parser = argparse.ArgumentParser(prog="sb3-pgx", description="Policy-gradient algorithms for Stable-Baselines3.")
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
