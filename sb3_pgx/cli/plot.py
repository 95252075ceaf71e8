"""The command ``sb3-pgx plot``: plot the metrics of a run."""

import argparse
from pathlib import Path

from sb3_pgx.cli.common import USER_ERRORS, Commands, usage_error


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plot",
        help="plot the metrics of a run, healthy ranges shaded",
        description="Plot the metrics that DiagnosticsCallback, HealthCallback or SB3 itself logged to a folder's "
        "progress.csv. Write diagnostics.png and diagnostics.html, an interactive page that needs no server.",
        examples=("sb3-pgx plot runs/mine",),
    )
    parser.add_argument("folder", type=Path, help="folder to which the run logged, and to which the plots are written")
    parser.add_argument("--force", action="store_true", help="replace earlier plots")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Run the command. Return the exit status."""
    from sb3_pgx.diagnostics.plots import plot_folder

    try:
        written = plot_folder(args.folder, args.force)
    except USER_ERRORS as error:
        return usage_error(error)
    print("\n".join(map(str, written)))
    return 0
