"""``sb3-pgx compare``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sb3_pgx.cli.common import FAILED, USER_ERRORS, Commands, add_run_options, usage_error


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train several algorithms over several seeds and environments on one budget",
        description="Train several algorithms in one or several environments over several seeds on one budget of "
        "environment steps; write a report (HTML, Markdown, PNG, CSV) with statistics over seeds and environments, and one "
        "JSON file per run. Run the same command with the same --output again to resume an interrupted comparison.",
    )
    parser.add_argument("--env", required=True, nargs="+", metavar="ID", help="Gymnasium's names of the environments")
    parser.add_argument(
        "--algos",
        required=True,
        nargs="+",
        metavar="NAME",
        help="such as reinforce, sb3:ppo, contrib:trpo, sbx:ppo or 'ppo[gamma=0.98, n_epochs=4]' to change hyperparameters",
    )
    parser.add_argument("--timesteps", required=True, type=int, help="environment steps per run")
    parser.add_argument(
        "--seeds", default="3", help="a number of seeds (0, 1, …), or the seeds themselves: 4,7,8 (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the results; finished runs of the same comparison there are reused (default: "
        "runs/compare-<env>-<time>)",
    )
    parser.add_argument(
        "--threshold",
        nargs="+",
        metavar="[ENV=]RETURN",
        help="return that counts as solved (default: Gymnasium's reward threshold, if there is one)",
    )
    parser.add_argument(
        "--normalize",
        nargs="+",
        metavar="ENV=LOW,HIGH",
        help="returns that count as 0 and as 1 in scores over several environments (default: a random policy, and the "
        "threshold or otherwise the best run)",
    )
    parser.add_argument(
        "--eval-episodes", type=int, default=20, help="episodes that the final policy of each run plays (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="repeat every run and replace results of the same names")
    add_run_options(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, runner: Any = None) -> int:
    """Run the command; ``runner`` is that of :func:`~sb3_pgx.experiments.comparison.compare`. Return the exit status."""
    from sb3_pgx.experiments.comparison import make_folder, plan_comparison, run_comparison
    from sb3_pgx.experiments.comparison_arguments import read_normalize, read_seeds, read_threshold
    from sb3_pgx.experiments.number_format import quantity
    from sb3_pgx.experiments.pool import run_all

    try:
        plan = plan_comparison(
            env=args.env,
            algorithms=args.algos,
            timesteps=args.timesteps,
            seeds=read_seeds(args.seeds),
            output=args.output,
            workers=args.workers,
            threshold=read_threshold(args.threshold),
            eval_episodes=args.eval_episodes,
            configs=args.configs,
            normalize=read_normalize(args.normalize),
            vec_env=args.vec_env,
            force=args.force,
        )
        make_folder(plan)  # fails before hours of training, not after
    except USER_ERRORS as error:
        return usage_error(error)
    print(f"{quantity(len(plan.specs), 'run')}, results in {plan.output}")
    if plan.earlier.results:
        print(f"{len(plan.earlier.results)} of them are already finished and are reused (--force repeats them)")
    for path in plan.earlier.damaged:
        print(f"{path} is incomplete or belongs to different settings; this run is repeated")
    comparison = run_comparison(plan, runner=run_all if runner is None else runner)
    print(f"\n{comparison.brief}")
    if comparison.unwritten is not None:
        print(f"sb3-pgx: {comparison.unwritten}; run the same command again to write the report", file=sys.stderr)
        return FAILED
    print(f"written to {plan.output}: report.html, report.md, pictures, CSV files, runs/")
    return FAILED if all(result.error for result in comparison.results) else 0
