"""The commands that train, with runs in the test's process. The pool of processes has its own tests."""

from sb3_pgx.cli import compare, parser
from sb3_pgx.experiments.pool import run_here


def compare_here(arguments, runner=run_here):
    """Run ``sb3-pgx compare …`` and return its exit status."""
    return compare.run(parser().parse_args(arguments), runner)
