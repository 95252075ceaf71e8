"""The command ``sb3-pgx doctor``: examine an environment, an algorithm or a log."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_pgx.cli.common import ENVIRONMENT, FAILED, USER_ERRORS, Commands, amount, seconds, usage_error

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

STACK_LINES = 6  # of an environment that ends its process
MAIN_THREAD = "Current thread"  # how Python begins its stack, below those of other threads


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="find out why training fails: examine an environment, an algorithm or a log",
        description="Find out why training fails. `sb3-pgx doctor WHAT -h` explains each examination.",
        examples=("sb3-pgx doctor env my_module:MyEnv-v0", "sb3-pgx doctor algo ppo", "sb3-pgx doctor log runs/mine"),
    )
    patients = parser.add_subparsers(required=True, metavar="WHAT")
    env = patients.add_parser(
        "env",
        help="examine an environment",
        description="Run SB3's check_env, play random actions and check what the environment returns. Exit with 1 if there "
        "is a fault or a warning.",
        examples=("sb3-pgx doctor env CartPole-v1", "sb3-pgx doctor env my_module:MyEnv-v0 --steps 10k"),
    )
    env.add_argument("env", metavar="ID", help=ENVIRONMENT)
    env.add_argument("--steps", type=amount, metavar="N", default=2000, help="number of random actions (default: %(default)s)")
    env.add_argument(
        "--timeout",
        type=seconds,
        metavar="TIME",
        default="5m",
        help="end an examination that takes longer, and show where: 90 (seconds), 15m or 2h (default: %(default)s)",
    )
    env.set_defaults(command=_doctor_env)
    algo = patients.add_parser(
        "algo",
        help="examine an algorithm on small environments with known answers",
        description="Train on small environments with known answers, one for each part of the algorithm. Exit with 1 if an "
        "answer is wrong.",
        examples=("sb3-pgx doctor algo ppo", "sb3-pgx doctor algo 'ppo[gae_lambda=0.5]'"),
    )
    algo.add_argument(
        "name", help="algorithm, such as ppo, sb3:ppo, contrib:trpo, or 'ppo[gae_lambda=0.5]' to change a setting"
    )
    algo.set_defaults(command=_doctor_algo)
    log = patients.add_parser(
        "log",
        help="examine the log of a run",
        description="Apply the rules of HealthCallback to a finished run's progress.csv. Exit with 1 if a rule was in alarm.",
        examples=("sb3-pgx doctor log runs/mine",),
    )
    log.add_argument("folder", type=Path, help="folder to which the run logged")
    log.set_defaults(command=_doctor_log)
    for one in (env, algo):
        one.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")


def _doctor_env(args: argparse.Namespace) -> int:
    """Examine an environment in a process of its own, which the environment may end."""
    from sb3_pgx.experiments.child_process import ChildProcess, ProcessDied, TimeLimitExceeded

    started = time.monotonic()
    process = ChildProcess(_examine_environment, args.env, args.steps, args.seed, fork=True)
    try:
        outcome = process.receive_in_time("examination", started, args.timeout)
    except TimeLimitExceeded as death:
        remedy = "; if the environment does not hang but is slow, give fewer --steps or more --timeout"
        return _show_death(args.env, "takes_too_long", f"{death}{remedy}", death.stack)
    except ProcessDied as death:
        return _show_death(args.env, "environment_raises", str(death), death.stack)
    finally:
        process.close(kill=True)
    if isinstance(outcome, Exception):
        return usage_error(outcome)
    text, has_problem = outcome
    print(text)
    return FAILED if has_problem else 0


def _show_death(env_id: str, finding: str, sentence: str, stack: str) -> int:
    """Print how an examination ended too early, and what it executed at that time. Return the exit status."""
    lines = stack[max(stack.rfind(MAIN_THREAD), 0) :].splitlines()[:STACK_LINES]
    print("\n         ".join([f"{env_id}\nfault    {finding}: {sentence}", *(line.strip() for line in lines)]))
    return FAILED


def _examine_environment(pipe: "Connection", env_id: str, steps: int, seed: int) -> None:
    """Send the report and whether there is a problem, or the user's error."""
    from sb3_pgx.doctor.environment import examine_environment
    from sb3_pgx.doctor.report import environment_text

    try:
        examination = examine_environment(env_id, steps, seed)
    except USER_ERRORS as error:
        pipe.send(ValueError(str(error)))
        return
    pipe.send((environment_text(examination), any(finding.is_problem for finding in examination.findings)))


def _doctor_algo(args: argparse.Namespace) -> int:
    from sb3_pgx.doctor.algorithm import examine_algorithm
    from sb3_pgx.doctor.report import algorithm_text
    from sb3_pgx.experiments.peers import constructor_arguments, resolve_peer
    from sb3_pgx.settings.configs import RunConfig, check_hyperparameters

    try:
        peer = resolve_peer(args.name)
        config = peer.adapt(RunConfig(source=args.name))
        check_hyperparameters(peer.algorithm, config)
        results = examine_algorithm(peer.algorithm, args.seed, **constructor_arguments(peer.algorithm, config.hyperparameters))
    except USER_ERRORS as error:
        return usage_error(error)
    print(algorithm_text(results))
    return FAILED if any(result.outcome == "failed" for result in results) else 0


def _doctor_log(args: argparse.Namespace) -> int:
    from sb3_pgx.doctor.log import examine_log
    from sb3_pgx.doctor.report import log_text

    try:
        examination = examine_log(args.folder)
    except USER_ERRORS as error:
        return usage_error(error)
    print(log_text(examination))
    return FAILED if examination.alarmed else 0
