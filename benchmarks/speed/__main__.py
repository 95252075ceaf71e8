"""``python -m benchmarks.speed``: measure the speed next to SB3, SBX, PFRL and RLtools."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_pgx.cli.common import FAILED, INTERRUPTED, USER_ERRORS, usage_error


def main(argv: Sequence[str] | None = None, **replaced: Any) -> int:
    """
    Run the command.

    :param argv: arguments; default: those of the process
    :param replaced: ``known`` and ``results`` of :func:`~benchmarks.speed.run.plan_bench`, and ``measure_case`` of
        :func:`~benchmarks.speed.run.run_bench`
    :return: exit status: 0, 1 if a case failed, 2 for a user error, 130 after Ctrl-C
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return run(_parser().parse_args(arguments), shlex.join(["python", "-m", "benchmarks.speed", *arguments]), **replaced)
    except KeyboardInterrupt:
        print("interrupted; results of finished cases are kept", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Train with each algorithm and with its peers in turn, one at a time; print ratios of speed and memory "
        "with their spread, and where the time goes; write all timings into a JSON file.",
    )
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="such as ppo-cartpole (default: all)")
    parser.add_argument("--rounds", type=int, help="timed rounds of training per contender (default: 5)")
    parser.add_argument("--timesteps", type=int, help="smallest number of environment steps per round (default: each case's)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of one rollout, to check that the benchmark works")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", action="store_true", help="write the results into benchmarks/results")
    where.add_argument("--output", type=Path, metavar="FILE", help="default: runs/bench-<time>.json")
    parser.add_argument("--force", action="store_true", help="replace --output if it exists")
    return parser


def run(args: argparse.Namespace, command: str, measure_case: Any = None, **replaced: Any) -> int:
    """Run the benchmark with parsed arguments. Return the exit status."""
    from benchmarks.speed.report import markdown
    from benchmarks.speed.run import plan_bench, run_bench

    try:
        plan = plan_bench(
            cases=args.cases,
            rounds=args.rounds,
            timesteps=args.timesteps,
            output=args.output,
            force=args.force,
            write=args.write,
            quick=args.quick,
            **replaced,
        )
        plan.output.parent.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
    except USER_ERRORS as error:
        return usage_error(error)
    results, failures = run_bench(plan, command, measure_case=measure_case)
    if results:
        print(f"\n{markdown(results)}")
    if results and results[-1].case.name not in failures:  # each write contains all results
        print(f"\nwritten to {plan.output}")
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
