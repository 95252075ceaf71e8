"""``sb3-pgx compare``."""

import argparse
from pathlib import Path

from sb3_pgx.cli.common import FAILED, USER_ERRORS, Commands, add_run_options, usage_error


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="train several algorithms over several seeds on one budget",
        description="Train several algorithms over several seeds on one budget of environment steps; "
        "write a table with intervals, learning curves, and a JSON file for each run.",
    )
    parser.add_argument("--env", required=True, metavar="ID", help="Gymnasium's name of the environment")
    parser.add_argument(
        "--algos",
        required=True,
        nargs="+",
        metavar="NAME",
        help="such as reinforce, sb3:ppo, contrib:trpo or 'ppo[gamma=0.98, n_epochs=4]', with settings of its own",
    )
    parser.add_argument("--timesteps", required=True, type=int, help="environment steps for each run")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds: 0, 1, … (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/compare-<env>-<time>")
    parser.add_argument("--threshold", type=float, help="return that counts as solved (default: Gymnasium's, if any)")
    parser.add_argument(
        "--eval-episodes", type=int, default=20, help="episodes that each final policy plays (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace results of the same names in --output")
    add_run_options(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    from sb3_pgx.compare.comparison import plan_comparison, run_comparison

    try:
        plan = plan_comparison(
            env=args.env,
            algorithms=args.algos,
            timesteps=args.timesteps,
            seeds=args.seeds,
            output=args.output,
            workers=args.workers,
            threshold=args.threshold,
            eval_episodes=args.eval_episodes,
            configs=args.configs,
            force=args.force,
        )
        (plan.output / "runs").mkdir(parents=True, exist_ok=True)  # before hours of training, not after
    except USER_ERRORS as error:
        return usage_error(error)
    print(f"{len(plan.specs)} runs into {plan.output}")
    comparison = run_comparison(plan)
    print(f"\n{comparison.report}\nwritten to {plan.output}: report.md, curves.png, runs/")
    return FAILED if all(result.error for result in comparison.results) else 0
