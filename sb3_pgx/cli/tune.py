"""``sb3-pgx tune``."""

import argparse
from pathlib import Path

from sb3_pgx.cli.common import FAILED, USER_ERRORS, Commands, add_vec_env, usage_error


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tune",
        help="search for hyperparameters with Optuna",
        description="Train an algorithm with hyperparameters that Optuna suggests, with several seeds per trial; write the "
        "best ones as a hyperparameter file, with pictures of the search. Run the same command again to resume an interrupted "
        "search. Run it on several machines with the same --storage to share the trials.",
    )
    # The destination of each option is the name of an argument of plan_tuning.
    parser.add_argument("--algo", dest="algorithm", required=True, metavar="NAME", help="such as ppo, or sb3:ppo for SB3's")
    parser.add_argument("--env", required=True, metavar="ID", help="Gymnasium's name of the environment")
    parser.add_argument(
        "--trials", type=int, default=20, help="number of trials in the study, over all machines (default: %(default)s)"
    )
    parser.add_argument("--timesteps", type=int, help="environment steps per run (default: n_timesteps of the settings)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per trial, with seeds 100, 101, … (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="trials at the same time (default: number of processors)")
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
        "--evaluations", type=int, default=10, help="points of a run at which it can be pruned (default: %(default)s)"
    )
    parser.add_argument(
        "--eval-episodes", type=int, default=20, help="episodes that the final policy of each run plays (default: %(default)s)"
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
    from sb3_pgx.tuning.study import open_study
    from sb3_pgx.tuning.tuner import run_tuning
    from sb3_pgx.tuning.tuning_plan import plan_tuning

    try:
        plan = plan_tuning(**{name: value for name, value in vars(args).items() if name != "command"})
        import optuna  # plan_tuning has checked that it is installed

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan.output.mkdir(parents=True, exist_ok=True)  # fails before hours of training, not after
        study = open_study(plan)
        print(f"study {plan.study_name}: {plan.trials} trials with {len(plan.seeds)} seeds each, results in {plan.output}")
        summary = run_tuning(plan, study)
    except USER_ERRORS as error:
        return usage_error(error)
    print(f"\n{summary.text}")
    if summary.best is None:
        return FAILED
    print(f"written to {plan.output}: {summary.config_file.relative_to(plan.output)}, report.html and pictures")
    return 0
