"""``sb3-pgx compare``."""

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.cli.common import (
    ENVIRONMENTS,
    FAILED,
    USER_ERRORS,
    Commands,
    add_run_options,
    amount,
    choose_runner,
    read_shard_option,
    usage_error,
)

if TYPE_CHECKING:
    from sb3_pgx.experiments.comparison import Comparison, ComparisonPlan


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train several algorithms over several seeds and environments on one budget",
        description="Train several algorithms in one or several environments over several seeds on one budget of "
        "environment steps; write a report (HTML, Markdown, PNG, CSV) with statistics over seeds and environments, and one "
        "JSON file per run. Run the same command with the same --output again to resume an interrupted comparison; add "
        "--retry-failed to repeat the runs that failed. The exit status is 1 if a run failed or is missing.",
        examples=(
            "sb3-pgx compare --env CartPole-v1 --algos ppo a2c sb3:ppo --timesteps 50k --seeds 5",
            "sb3-pgx compare --env CartPole-v1 Acrobot-v1 --algos ppo 'ppo[gamma=0.98]' --timesteps 1e5 --output runs/gamma",
            "sb3-pgx compare --env my_module:MyEnv-v0 --algos ppo trpo --timesteps 1e5 --timeout-per-run 30m",
        ),
    )
    parser.add_argument("--env", required=True, nargs="+", metavar="ID", help=ENVIRONMENTS)
    parser.add_argument(
        "--algos",
        required=True,
        nargs="+",
        metavar="NAME",
        help="such as reinforce, sb3:ppo, contrib:trpo, sbx:ppo or 'ppo[gamma=0.98, n_epochs=4]' to change hyperparameters",
    )
    parser.add_argument(
        "--timesteps", required=True, type=amount, metavar="N", help="environment steps per run, such as 40000, 40k or 1e5"
    )
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
        "--eval-episodes",
        type=amount,
        metavar="N",
        default=20,
        help="episodes that the final policy of each run plays (default: %(default)s)",
    )
    parser.add_argument(
        "--equivalence",
        type=float,
        metavar="MARGIN",
        help="call two algorithms equivalent if two one-sided t-tests show that their means differ by less than this many "
        "units of return (of score with several environments)",
    )
    parser.add_argument(
        "--until-decided",
        type=int,
        metavar="SEEDS",
        help="add seeds in batches of --seeds until every pair is better, worse or equivalent, at most SEEDS per algorithm; "
        "tests are corrected for the number of looks (Bonferroni)",
    )
    parser.add_argument("--force", action="store_true", help="repeat every run and replace results of the same names")
    parser.add_argument("--retry-failed", action="store_true", help="repeat the runs in --output that failed")
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="train nothing; report the runs in --output, name the missing ones, and exit with 1 if there are any",
    )
    add_run_options(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, runner: Any = None) -> int:
    """Run the command; ``runner`` is that of :func:`~sb3_pgx.experiments.comparison.compare`. Return the exit status."""
    from dataclasses import replace

    from sb3_pgx.experiments.comparison import opened_folder, report_finished, run_comparison, run_share
    from sb3_pgx.experiments.ray_cluster import UnsuitableCluster
    from sb3_pgx.experiments.shards import WHOLE

    with ExitStack() as stack:
        try:
            plan = _plan(args)
            if args.report_only:
                return _show(report_finished(plan), plan)
            plan = replace(plan, runner=stack.enter_context(choose_runner(args, runner)))
            stack.enter_context(opened_folder(plan))  # fails before hours of training, not after
        except USER_ERRORS as error:
            return usage_error(error)
        _announce(plan)
        try:
            if plan.shard != WHOLE:
                return _end_shard(plan, run_share(plan))
            return _show(run_comparison(plan), plan)
        except UnsuitableCluster as error:
            return usage_error(error)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_what_is_kept(plan)) from None


def _what_is_kept(plan: "ComparisonPlan") -> str:
    """Return in words which runs an interruption leaves, and how to resume."""
    from sb3_pgx.experiments.number_format import quantity

    ended = sum(path.exists() for path in plan.paths)
    return (
        f"{ended} of {quantity(len(plan.specs), 'run')} are kept in {plan.output}; to resume, run\n  "
        f"{plan.design.command} --output {shlex.quote(str(plan.output))}"
    )


def _plan(args: argparse.Namespace) -> "ComparisonPlan":
    from dataclasses import replace

    from sb3_pgx.experiments.comparison import plan_comparison
    from sb3_pgx.experiments.comparison_arguments import read_normalize, read_seeds, read_threshold

    shard = read_shard_option(args)
    if args.shard is not None and args.until_decided is not None:
        raise ValueError("--shard and --until-decided exclude each other: a shard does not know when the others are decided")
    if args.report_only:
        _check_report_only(args)
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
        equivalence=args.equivalence,
        until_decided=args.until_decided,
        retry_failed=args.retry_failed,
        timeout_per_run=args.timeout_per_run,
    )
    design = plan.design if args.ray is None else replace(plan.design, workers=None)
    return replace(plan, shard=shard, design=design)


def _check_report_only(args: argparse.Namespace) -> None:
    """:raises ValueError: options that only make sense for training were given, or there is no folder"""
    for name in ("ray", "shard", "workers", "force", "retry_failed", "until_decided"):
        if getattr(args, name):
            option = name.replace("_", "-")
            raise ValueError(f"--report-only trains nothing, so it cannot be combined with --{option}")
    if args.output is None:
        raise ValueError("--report-only needs --output: the folder with the runs")


def _announce(plan: "ComparisonPlan") -> None:
    from sb3_pgx.experiments.budgets import unlearned_lines
    from sb3_pgx.experiments.number_format import quantity
    from sb3_pgx.experiments.shards import WHOLE

    share = "" if plan.shard == WHOLE else f"shard {plan.shard}: {len(plan.share)} of "
    at_most = "at most " if plan.design.looks else ""
    print(f"{at_most}{share}{quantity(len(plan.specs), 'run')}, results in {plan.output}")
    for line in (*plan.design.without_scale(), *unlearned_lines(plan.specs)):
        print(line)
    if plan.reused:
        print(f"{len(plan.reused)} of them have already ended and are reused (--force repeats them)")
    n_failed = sum(index in plan.earlier.failed for index in plan.reused)
    if n_failed:
        print(f"{n_failed} of these failed; --retry-failed repeats them")
    for path in plan.earlier.damaged:
        if path in [plan.paths[index] for index in plan.share]:
            print(f"{path} is incomplete or belongs to different settings; this run is repeated")


def _end_shard(plan: "ComparisonPlan", results: list[Any]) -> int:
    from sb3_pgx.experiments.earlier_runs import find_earlier_runs
    from sb3_pgx.experiments.number_format import quantity

    n_failed = sum(result.error is not None for result in results)
    kept = find_earlier_runs([plan.specs[index] for index in plan.share], [plan.paths[index] for index in plan.share])
    if lost := len(results) - n_failed - len(kept.results):
        sentence = f"{quantity(lost, 'finished run')} could not be written to {plan.output}: run the same command again"
        print(f"sb3-pgx: {sentence}", file=sys.stderr)
    print(
        f"shard {plan.shard}: {len(results) - n_failed} finished, {n_failed} failed; when all shards have ended, run the same "
        "command without --shard to train what is missing and write the report, or with --report-only instead to train nothing"
    )
    return FAILED if n_failed or lost else 0


def _show(comparison: "Comparison", plan: "ComparisonPlan") -> int:
    """Print the tables and where the files are. Return the exit status."""
    print(f"\n{comparison.brief}")
    if comparison.unwritten is not None:
        print(f"sb3-pgx: {comparison.unwritten}; run the same command again to write the report", file=sys.stderr)
        return FAILED
    print(f"written to {plan.output}: report.html, report.md, pictures, CSV files, runs/")
    incomplete = len(comparison.results) < len(plan.specs) and not plan.design.looks
    return FAILED if incomplete or any(result.error for result in comparison.results) else 0
