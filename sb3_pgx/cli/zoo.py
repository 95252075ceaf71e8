"""``sb3-pgx train``, ``enjoy``, ``record-video`` and ``plot-train``: rl_zoo3's commands, which parse their own arguments."""

import argparse
import sys

from sb3_pgx.cli.common import FAILED, Commands, usage_error

# A line of help per command. The full help is rl_zoo3's; it would have to be imported to show it.
COMMANDS = {
    "train": "train one algorithm with rl-baselines3-zoo's train",
    "enjoy": "play episodes with a policy that `train` saved",
    "record-video": "record a video of a policy that `train` saved",
    "plot-train": "draw the training returns of the runs of `train`",
}


def add_parser(commands: Commands) -> None:
    """Add rl_zoo3's commands to the parser."""
    for name, line in COMMANDS.items():
        # No argument starts with this prefix, so all of them, including -h, are passed on to rl_zoo3.
        parser = commands.add_parser(name, help=line, add_help=False, prefix_chars="\0")
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        parser.set_defaults(command=run, name=name)


def run(args: argparse.Namespace) -> int:
    """Run one of rl_zoo3's commands. Return the exit status."""
    from sb3_pgx.rl_zoo3.invalid_request import InvalidRequest, RunFailed
    from sb3_pgx.rl_zoo3.plugin import run_command

    try:
        run_command(args.name, args.arguments)
    except InvalidRequest as request:
        return usage_error(request)
    except RunFailed as failure:
        print(f"sb3-pgx: {failure}", file=sys.stderr)
        return FAILED
    return 0
