"""The command ``sb3-pgx``: reads arguments, hands them to the package, and turns user errors into one sentence."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

USER_ERRORS = (ValueError, ImportError, OSError)
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: arguments; default those of the process
    :return: exit status: 0, 1 where a claim, a case of the benchmark or every run failed, or the doctor found something, 2 for
        a user error, 130 after Ctrl-C
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments, argparse.Namespace(command_line=f"sb3-pgx {shlex.join(arguments)}"))
    try:
        return args.command(args)
    except KeyboardInterrupt:
        print("interrupted; results of finished runs are kept", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgx", description="Policy-gradient algorithms for Stable-Baselines3.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_claims(commands)
    _add_bench(commands)
    _add_plot(commands)
    _add_doctor(commands)
    return parser


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    _add_common(parser)
    parser.set_defaults(command=_compare)


def _add_claims(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    _add_common(parser)
    parser.set_defaults(command=_claims)


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the speed beside that of SB3 and of SBX",
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
    parser.set_defaults(command=_bench)


def _add_plot(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plot",
        help="draw what a training logged, healthy ranges shaded",
        description="Draw what DiagnosticsCallback or HealthCallback logged into a folder's progress.csv (or what SB3 logs "
        "itself) over the training, as diagnostics.png and as diagnostics.html, which needs no server.",
    )
    parser.add_argument("folder", type=Path, help="that the training logged to; the pictures go there, too")
    parser.add_argument("--force", action="store_true", help="replace earlier pictures")
    parser.set_defaults(command=_plot)


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor", help="find out why a training fails: its environment, its algorithm, or what it logged"
    )
    patients = parser.add_subparsers(required=True, metavar="WHAT")
    env = patients.add_parser(
        "env",
        help="examine an environment",
        description="Run SB3's check_env and our own checks on random actions; exit with 1 if there is a fault or a warning.",
    )
    env.add_argument("env", metavar="ID", help="Gymnasium's name of the environment")
    env.add_argument("--steps", type=int, default=2000, help="random actions (default: %(default)s)")
    env.set_defaults(command=_doctor_env)
    algo = patients.add_parser(
        "algo",
        help="examine an algorithm on environments whose answers are known",
        description="Train on small environments with known answers, one for each part of the pipeline; exit with 1 if an "
        "answer is wrong.",
    )
    algo.add_argument("name", help="such as ppo, sb3:ppo, contrib:trpo or 'ppo[gae_lambda=0.5]', with settings of its own")
    algo.set_defaults(command=_doctor_algo)
    log = patients.add_parser(
        "log",
        help="examine what a training logged",
        description="Apply the rules of HealthCallback to a finished run's progress.csv; exit with 1 if one was in alarm.",
    )
    log.add_argument("folder", type=Path, help="that the training logged to")
    log.set_defaults(command=_doctor_log)
    for one in (env, algo):
        one.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="runs at a time (default: number of processors)")
    parser.add_argument("--configs", type=Path, metavar="FOLDER", help="hyperparameter files in rl_zoo3's format")


def _compare(args: argparse.Namespace) -> int:
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
        return _usage_error(error)
    print(f"{len(plan.specs)} runs into {plan.output}")
    comparison = run_comparison(plan)
    print(f"\n{comparison.report}\nwritten to {plan.output}: report.md, curves.png, runs/")
    return FAILED if all(result.error for result in comparison.results) else 0


def _claims(args: argparse.Namespace) -> int:
    from sb3_pgx.compare.claims import check_claims, results_folder, select_claims
    from sb3_pgx.compare.comparison import check_output, check_positive
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
        return _usage_error(error)
    chosen = [*(["--only", args.only] if args.only else []), *(["--configs", str(args.configs)] if args.configs else [])]
    # What reproduces the verdict anywhere: where runs were kept, and how many at a time, does not change it.
    command = shlex.join(["sb3-pgx", "claims", args.name, *chosen, "--write"])
    settings = Settings(command, args.workers, args.configs, args.output)
    return 0 if check_claims(claims, settings, results) else FAILED


def _bench(args: argparse.Namespace) -> int:
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
        return _usage_error(error)
    results, failures = run_bench(plan, args.command_line)
    if results:
        print(f"\n{markdown(results)}\n\nwritten to {plan.output}")
    return FAILED if failures else 0


def _plot(args: argparse.Namespace) -> int:
    from sb3_pgx.callbacks.plots import plot_folder

    try:
        written = plot_folder(args.folder, args.force)
    except USER_ERRORS as error:
        return _usage_error(error)
    print("\n".join(map(str, written)))
    return 0


def _doctor_env(args: argparse.Namespace) -> int:
    from sb3_pgx.doctor.dry_run import examine_environment
    from sb3_pgx.doctor.report import environment_text

    try:
        examination = examine_environment(args.env, args.steps, args.seed)
    except USER_ERRORS as error:
        return _usage_error(error)
    print(environment_text(examination))
    return FAILED if any(finding.is_problem for finding in examination.findings) else 0


def _doctor_algo(args: argparse.Namespace) -> int:
    from sb3_pgx.compare.peers import resolve_peer
    from sb3_pgx.doctor.algorithm import examine_algorithm
    from sb3_pgx.doctor.report import algorithm_text
    from sb3_pgx.zoo.configs import RunConfig, check_hyperparameters

    try:
        peer = resolve_peer(args.name)
        config = peer.adapt(RunConfig(source=args.name))
        check_hyperparameters(peer.algorithm, config)
        results = examine_algorithm(peer.algorithm, args.seed, **config.hyperparameters)
    except USER_ERRORS as error:
        return _usage_error(error)
    print(algorithm_text(results))
    return FAILED if any(result.outcome == "failed" for result in results) else 0


def _doctor_log(args: argparse.Namespace) -> int:
    from sb3_pgx.doctor.log import examine_log
    from sb3_pgx.doctor.report import log_text

    try:
        examination = examine_log(args.folder)
    except USER_ERRORS as error:
        return _usage_error(error)
    print(log_text(examination))
    return FAILED if examination.alarmed else 0


def _usage_error(error: BaseException) -> int:
    print(f"sb3-pgx: {error}", file=sys.stderr)
    return USAGE_ERROR


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: it comes with the whole package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import sb3_pgx

        print(f"sb3_pgx {sb3_pgx.__version__}")
        parser.exit()
