"""``sb3-pgx plot``."""

import argparse
from pathlib import Path

from sb3_pgx.cli.common import USER_ERRORS, Commands, usage_error


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw what a training logged, healthy ranges shaded",
        description="Draw what DiagnosticsCallback or HealthCallback logged into a folder's progress.csv (or what SB3 logs "
        "itself) over the training, as diagnostics.png and as diagnostics.html, which needs no server.",
    )
    parser.add_argument("folder", type=Path, help="that the training logged to; the pictures go there, too")
    parser.add_argument("--force", action="store_true", help="replace earlier pictures")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    from sb3_pgx.diagnostics.plots import plot_folder

    try:
        written = plot_folder(args.folder, args.force)
    except USER_ERRORS as error:
        return usage_error(error)
    print("\n".join(map(str, written)))
    return 0
