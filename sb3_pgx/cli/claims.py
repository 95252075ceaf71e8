"""``sb3-pgx claims``."""

import argparse
import shlex
import sys
from pathlib import Path

from sb3_pgx.cli.common import FAILED, USER_ERRORS, Commands, add_run_options, usage_error


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "claims",
        help="measure anew what this package claims of its algorithms",
        description="Train with the published hyperparameters on seeds that they were not tuned on, print each verdict, "
        "and exit with 1 if a claim fails.",
    )
    parser.add_argument("name", help="an algorithm, or all")
    parser.add_argument("--only", metavar="ENV", help="measure only the claims on this environment")
    parser.add_argument("--write", action="store_true", help="write the verdicts into the repository's zoo_configs/results")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep each run in this folder, and the verdicts without --write; finished runs with the same settings and "
        "versions that it holds already are not trained again",
    )
    add_run_options(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    from sb3_pgx.compare.arguments import check_positive
    from sb3_pgx.compare.claims import check_claims, results_folder, select_claims
    from sb3_pgx.compare.folder import check_output
    from sb3_pgx.compare.verdict import Settings
    from sb3_pgx.zoo.configs import check_folder

    try:
        check_positive(workers=1 if args.workers is None else args.workers)
        check_folder(args.configs)
        claims = select_claims(args.name, args.only, args.configs)
        if args.output is not None and not (args.output / "runs").is_dir():  # of an earlier measurement, which goes on
            check_output(args.output)
        results = results_folder() if args.write else args.output
    except USER_ERRORS as error:
        return usage_error(error)
    chosen = [*(["--only", args.only] if args.only else []), *(["--configs", str(args.configs)] if args.configs else [])]
    # What reproduces the verdict anywhere: where runs were kept, and how many at a time, does not change it.
    command = shlex.join(["sb3-pgx", "claims", args.name, *chosen, "--write"])
    settings = Settings(command, args.workers, args.configs, args.output)
    try:
        return 0 if check_claims(claims, settings, results) else FAILED
    except OSError as error:  # a full disk
        print(f"sb3-pgx: {error}", file=sys.stderr)
        return FAILED
