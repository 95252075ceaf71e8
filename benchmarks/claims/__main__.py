"""``python -m benchmarks.claims``: measure and check the claims about the algorithms."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import CLAIMS, RESULTS
from sb3_pgx.cli.common import (
    FAILED,
    INTERRUPTED,
    USER_ERRORS,
    add_run_options,
    choose_runner,
    read_shard_option,
    usage_error,
)

if TYPE_CHECKING:
    from benchmarks.claims.protocol import Claim
    from sb3_pgx.experiments.pool import Runner


def main(
    argv: Sequence[str] | None = None, folder: Path = CLAIMS, results: Path = RESULTS, runner: "Runner | None" = None
) -> int:
    """
    Run the command.

    :param argv: arguments; default: those of the process
    :param folder: folder of the claims
    :param results: folder of the records
    :param runner: executes training runs; default: in processes
    :return: exit status: 0; 1 if a claim does not hold, or with ``--check`` if a record is missing or stale; 2 for a user
        error; 130 after Ctrl-C
    """
    try:
        return run(_parser().parse_args(argv), folder, results, runner)
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept if --output was given", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description="Run every planned seed of the claims in benchmarks/claims, print each verdict, and exit with 1 if a "
        "claim does not hold.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="a subject (a file in benchmarks/claims, such as trpo), or all (default with --plan and --check: all)",
    )
    parser.add_argument("--only", metavar="ENV", help="only the claims on this environment")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="train nothing; print the power calculation of each claim")
    what.add_argument(
        "--check",
        action="store_true",
        help="train nothing; list claims whose record is missing, stale, or does not follow from its runs, and exit with 1 if "
        "there are any",
    )
    what.add_argument("--write", action="store_true", help="append the records to benchmarks/results")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep every run in this folder, and without --write also the records. Run the same command again to resume: runs "
        "with the same settings, versions and code hash are reused",
    )
    add_run_options(parser)
    return parser


def run(args: argparse.Namespace, folder: Path, results: Path, runner: "Runner | None" = None) -> int:
    """Run the command with parsed arguments. Return the exit status."""
    from benchmarks.claims.draws import RunOptions
    from benchmarks.claims.measuring import measure_claims, plan_lines, run_shares, select_claims
    from sb3_pgx.experiments.comparison_arguments import check_at_least_one
    from sb3_pgx.experiments.ray_cluster import UnsuitableCluster
    from sb3_pgx.experiments.shards import WHOLE
    from sb3_pgx.settings.configs import check_folder

    with ExitStack() as stack:
        try:
            if args.name is None and not (args.plan or args.check):
                raise ValueError("say what to measure: a subject, such as trpo, or all")
            check_at_least_one(workers=1 if args.workers is None else args.workers)
            check_folder(args.configs)
            claims = select_claims(args.name or "all", args.only, folder)
            if args.plan:
                print("\n".join(plan_lines(claims)))
                return 0
            if args.check:
                return check(claims, results, args.configs)
            shard = read_shard_option(args)
            kept = results if args.write else args.output
            check_before_runs(args, claims, folder, kept)
            # A failed run counts against a claim, so it is not repeated.
            runner = stack.enter_context(choose_runner(args, runner, repeat_failed=False))
        except USER_ERRORS as error:
            return usage_error(error)
        options = RunOptions(args.workers, args.configs, args.output, runner=runner, shard=shard)
        try:
            if shard != WHOLE:
                run_shares(claims, options)
                return 0
            return 0 if measure_claims(claims, options, _command(args), kept) else FAILED
        except UnsuitableCluster as error:
            return usage_error(error)
        except OSError as error:  # a full disk
            print(f"sb3-pgx: {error}", file=sys.stderr)
            return FAILED


def check_before_runs(
    args: argparse.Namespace, claims: "Mapping[str, Sequence[Claim]]", folder: Path, kept: Path | None
) -> None:
    """:raises ValueError, ImportError, OSError: something is missing that all runs need, or a folder holds other files"""
    from benchmarks.claims.measuring import check_committed, check_ready
    from benchmarks.claims.training_runs import RUNS
    from sb3_pgx.experiments.output_folder import check_output, holds_other_files

    check_ready(claims, kept, args.configs)
    if args.output is not None and (args.output.is_file() or holds_other_files(args.output, RUNS)):
        check_output(args.output)
    if args.write:
        check_committed(folder)


def _command(args: argparse.Namespace) -> str:
    """Return the command that reproduces the records, without what does not change the verdict: where and how runs train."""
    chosen = [*(["--only", args.only] if args.only else []), *(["--configs", str(args.configs)] if args.configs else [])]
    return shlex.join(["python", "-m", "benchmarks.claims", args.name, *chosen, "--write"])


def check(claims: "Mapping[str, Sequence[Claim]]", results: Path, configs: Path | None) -> int:
    """Print each claim whose record is missing, stale or inconsistent; return the exit status."""
    from benchmarks.claims.records import find_problem, read_records

    found = [
        problem
        for subject, of_subject in claims.items()
        for claim in of_subject
        if (problem := find_problem(claim, read_records(results / f"{subject}.json"), configs))
    ]
    for problem in found:
        print(f"{problem.claim.subject}: {problem.claim.statement}: {problem.sentence}")
    print(f"{len(found)} of {sum(map(len, claims.values()))} claims need measuring or correcting")
    return FAILED if found else 0


if __name__ == "__main__":
    sys.exit(main())
