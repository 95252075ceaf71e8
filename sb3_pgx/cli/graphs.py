"""The commands ``sb3-pgx cache`` and ``sb3-pgx warmup``: compiled graphs that are kept between runs."""

import argparse
from datetime import datetime
from pathlib import Path

from sb3_pgx.cli.common import ENVIRONMENTS, USER_ERRORS, Commands, amount, usage_error


def add_parser(commands: Commands) -> None:
    """Add the commands to the parser."""
    cache = commands.add_parser(
        "cache",
        help="show or remove the compiled graphs that are kept between runs",
        description="Show the folder of compiled graphs, or empty it. SB3_PGX_CACHE_DIR names another folder; if it is set to "
        "nothing, graphs are not kept.",
        examples=("sb3-pgx cache", "sb3-pgx cache --clear"),
    )
    cache.add_argument("--clear", action="store_true", help="remove the graphs")
    cache.set_defaults(command=_cache)
    warmup = commands.add_parser(
        "warmup",
        help="compile ahead what a run will need",
        description="Train for the first rollouts and keep the compiled graphs, so that later runs with the same settings "
        "load them: for containers, CI and many processes. Graphs depend on the network, the settings, the number of "
        "environments and of torch threads, torch's version and the processor.",
        examples=(
            "sb3-pgx warmup --algo ppo a2c --env CartPole-v1",
            "sb3-pgx warmup --algo ppo --env my_module:MyEnv-v0 --defaults --threads 1",
        ),
    )
    warmup.add_argument("--algo", required=True, nargs="+", metavar="NAME", help="such as ppo or 'ppo[batch_size=256]'")
    warmup.add_argument("--env", required=True, nargs="+", metavar="ID", help=ENVIRONMENTS)
    warmup.add_argument("--defaults", action="store_true", help="default arguments and one environment, instead of settings")
    warmup.add_argument("--threads", type=amount, metavar="N", help="torch threads (default: torch's)")
    warmup.add_argument("--configs", type=Path, metavar="FOLDER", help="hyperparameter files in rl_zoo3's format")
    warmup.set_defaults(command=_warmup)


def _cache(args: argparse.Namespace) -> int:
    from sb3_pgx.engine.kept_graphs import VARIABLE, clear, folder, graphs

    place = folder()
    if place is None:
        print(f"compiled graphs are not kept: {VARIABLE} is empty")
        return 0
    if args.clear:
        print(f"removed {clear(place)} compiled graphs from {place}")
        return 0
    kept = graphs(place)
    print(f"{len(kept)} compiled graphs, {_mib(sum(g.size for g in kept))}, in {place}")
    for graph in kept:
        print(f"{graph.file.name[:12]}  {_mib(graph.size):>8}  last used {datetime.fromtimestamp(graph.used):%Y-%m-%d %H:%M}")
    return 0


def _warmup(args: argparse.Namespace) -> int:
    import torch as th

    from sb3_pgx.experiments.warmup import plan_warmup, warm_up

    if args.threads is not None:
        th.set_num_threads(args.threads)
    try:
        plans = [plan_warmup(name, env_id, args.configs, args.defaults) for env_id in args.env for name in args.algo]
        for plan in plans:
            print(f"{plan.algorithm.__name__} in {plan.env_id}:")
            warm_up(plan, lambda sentence: print(f"  {sentence}", flush=True))
    except USER_ERRORS as error:
        return usage_error(error)
    return _cache(argparse.Namespace(clear=False))


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
