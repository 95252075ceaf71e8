"""``sb3-pgx bench``."""

import argparse
from pathlib import Path

from sb3_pgx.cli.common import FAILED, USER_ERRORS, Commands, usage_error


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the speed beside that of SB3, SBX and PFRL",
        description="Train with each algorithm and with its peers in turn, one at a time; print ratios of speed and memory "
        "with their spread, and where the time goes; write all timings into a JSON file.",
    )
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="such as ppo-cartpole (default: all)")
    parser.add_argument("--rounds", type=int, help="timed trainings of each contender (default: 5)")
    parser.add_argument("--timesteps", type=int, help="environment steps of a round, at least (default: as each case says)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of a single rollout: whether it works, not how fast")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", action="store_true", help="write the results into the repository's zoo_configs/results")
    where.add_argument("--output", type=Path, metavar="FILE", help="default: runs/bench-<time>.json")
    parser.add_argument("--force", action="store_true", help="replace --output if it exists")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    from sb3_pgx.compare.bench.report import markdown
    from sb3_pgx.compare.bench.run import plan_bench, run_bench

    try:
        plan = plan_bench(
            cases=args.cases,
            rounds=args.rounds,
            timesteps=args.timesteps,
            output=args.output,
            force=args.force,
            write=args.write,
            quick=args.quick,
        )
        plan.output.parent.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
    except USER_ERRORS as error:
        return usage_error(error)
    results, failures = run_bench(plan, args.command_line)
    if results:
        print(f"\n{markdown(results)}")
    if results and results[-1].case.name not in failures:  # each time, all results are written
        print(f"\nwritten to {plan.output}")
    return FAILED if failures else 0
