"""``python -m benchmarks.claims``: measure what this package claims of its algorithms."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS
from sb3_pgx.cli.common import FAILED, INTERRUPTED, USER_ERRORS, add_run_options, usage_error


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: arguments; default those of the process
    :return: exit status: 0, 1 if a claim failed, 2 for a user error, 130 after Ctrl-C
    """
    try:
        return run(_parser().parse_args(argv))
    except KeyboardInterrupt:
        print("interrupted; results of finished runs are kept", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description="Train with the published hyperparameters on seeds that they were not tuned on, print each verdict, "
        "and exit with 1 if a claim fails.",
    )
    parser.add_argument("name", help="an algorithm, or all")
    parser.add_argument("--only", metavar="ENV", help="measure only the claims on this environment")
    parser.add_argument("--write", action="store_true", help="write the verdicts into benchmarks/results")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep each run in this folder, and the verdicts without --write; finished runs with the same settings and "
        "versions that it holds already are not trained again",
    )
    add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from benchmarks.claims.check import check_claims, select_claims
    from benchmarks.claims.verdict import Settings
    from sb3_pgx.experiments.comparison_arguments import check_at_least_one
    from sb3_pgx.experiments.output_folder import check_output
    from sb3_pgx.settings.configs import check_folder

    try:
        check_at_least_one(workers=1 if args.workers is None else args.workers)
        check_folder(args.configs)
        claims = select_claims(args.name, args.only, args.configs)
        if args.output is not None and not (args.output / "runs").is_dir():  # of an earlier measurement, which goes on
            check_output(args.output)
        results = RESULTS if args.write else args.output
    except USER_ERRORS as error:
        return usage_error(error)
    chosen = [*(["--only", args.only] if args.only else []), *(["--configs", str(args.configs)] if args.configs else [])]
    # What reproduces the verdict anywhere: where runs were kept, and how many at a time, does not change it.
    command = shlex.join(["python", "-m", "benchmarks.claims", args.name, *chosen, "--write"])
    settings = Settings(command, args.workers, args.configs, args.output)
    try:
        return 0 if check_claims(claims, settings, results) else FAILED
    except OSError as error:  # a full disk
        print(f"sb3-pgx: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
