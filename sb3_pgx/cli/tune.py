"""``sb3-pgx tune``."""

import argparse
import sys
from pathlib import Path

from sb3_pgx.cli.common import ENVIRONMENT, FAILED, USER_ERRORS, Commands, add_timeout, add_vec_env, amount, usage_error


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tune",
        help="search for hyperparameters with Optuna",
        description="Train an algorithm with hyperparameters that Optuna suggests, with several seeds per trial; write the "
        "best ones as a hyperparameter file, with pictures of the search. Run the same command again to resume an interrupted "
        "search. Run it on several machines with the same --storage to share the trials.",
        examples=(
            "sb3-pgx tune --algo ppo --env CartPole-v1 --trials 50 --timesteps 40k",
            "sb3-pgx tune --algo trpo --env my_module:MyEnv-v0 --timesteps 1e5 --pruner hyperband",
            "sb3-pgx compare --env CartPole-v1 --algos ppo --timesteps 40k --configs runs/tune-ppo-CartPole-v1/best",
        ),
    )
    # The destination of each option is the name of an argument of plan_tuning.
    parser.add_argument("--algo", dest="algorithm", required=True, metavar="NAME", help="such as ppo, or sb3:ppo for SB3's")
    parser.add_argument("--env", required=True, metavar="ID", help=ENVIRONMENT)
    parser.add_argument(
        "--trials",
        type=amount,
        metavar="N",
        default=20,
        help="number of trials in the study, over all machines (default: %(default)s)",
    )
    parser.add_argument(
        "--timesteps", type=amount, metavar="N", help="environment steps per run (default: n_timesteps of the settings)"
    )
    parser.add_argument(
        "--seeds", type=amount, metavar="N", default=3, help="runs per trial, with seeds 100, 101, … (default: %(default)s)"
    )
    parser.add_argument("--workers", type=amount, metavar="N", help="trials at the same time (default: number of processors)")
    add_timeout(parser, "trial")
    parser.add_argument(
        "--pruner",
        default="median",
        metavar="NAME",
        help="median or hyperband: all seeds of a trial advance together, and their mean return decides; wilcoxon: the seeds "
        "train one after the other, and the finished ones decide; none: every trial is completed (default: %(default)s)",
    )
    parser.add_argument("--sampler", default="tpe", metavar="NAME", help="tpe or random (default: %(default)s)")
    parser.add_argument("--sampler-seed", type=int, metavar="SEED", help="seed of the sampler (default: random)")
    parser.add_argument(
        "--evaluations",
        type=amount,
        metavar="N",
        default=10,
        help="points of a run at which it can be pruned (default: %(default)s)",
    )
    parser.add_argument(
        "--eval-episodes",
        type=amount,
        metavar="N",
        default=20,
        help="episodes that the final policy of each run plays (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results (default: runs/tune-<algo>-<env>)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="where Optuna stores the study: the path of a journal file, grpc://host:port, or a database such as "
        "postgresql://user@host/database (default: journal.log in --output)",
    )
    parser.add_argument("--study-name", metavar="NAME", help="name of the study (default: tune-<algo>-<env>)")
    parser.add_argument(
        "--configs",
        type=Path,
        metavar="FOLDER",
        help="hyperparameter files in rl_zoo3's format to start from",
    )
    add_vec_env(parser)
    parser.add_argument("--force", action="store_true", help="delete the study of that name, if it exists, and start again")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Run the command. Return the exit status."""
    from sb3_pgx.experiments.budgets import FITTED
    from sb3_pgx.experiments.number_format import quantity
    from sb3_pgx.tuning.study import open_study
    from sb3_pgx.tuning.trial_records import active_processes
    from sb3_pgx.tuning.tuner import run_tuning
    from sb3_pgx.tuning.tuning_plan import plan_tuning

    try:
        plan = plan_tuning(**{name: value for name, value in vars(args).items() if name != "command"})
        if FITTED in plan.config.source:
            print(f"the rollouts of the starting configuration are longer than a run: {plan.config.source}")
        import optuna  # plan_tuning has checked that it is installed

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan.output.mkdir(parents=True, exist_ok=True)  # fails before hours of training, not after
        study = open_study(plan)
        for process in active_processes(study):
            print(f"{process} is working on this study, too: trials are shared")
        size = f"{quantity(plan.trials, 'trial')} with {quantity(len(plan.seeds), 'seed')} each"
    except USER_ERRORS as error:
        return usage_error(error)
    print(f"study {plan.study_name}: {size}, results in {plan.output}")
    try:
        summary = run_tuning(plan, study)
    except OSError as error:  # of the storage; others belong to a trial
        print(f"sb3-pgx: {error}; run the same command again to resume", file=sys.stderr)
        return FAILED
    except USER_ERRORS as error:
        return usage_error(error)
    print(f"\n{summary.text}")
    if summary.unwritten is not None:
        print(f"sb3-pgx: {summary.unwritten}; run the same command again to write the report", file=sys.stderr)
        return FAILED
    if summary.best is None:
        return FAILED
    print(f"written to {plan.output}: {summary.config_file.relative_to(plan.output)}, report.html and pictures")
    return 0
