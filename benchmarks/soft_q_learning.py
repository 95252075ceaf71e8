"""
Measure soft Q-learning: which of four equally good goals it goes to, beside SAC, and its returns on Pendulum-v1.

    python -m benchmarks.soft_q_learning goals             # writes benchmarks/results/soft_q_learning/goals.json
    python -m benchmarks.soft_q_learning pendulum          # writes benchmarks/results/soft_q_learning/pendulum.json
    python -m benchmarks.soft_q_learning goals --only sac  # keeps what the file says of the others at the same commit

The goals are those of ``sb3_pgx.tasks:MultiGoal-v0``. Each policy plays episodes with sampled actions; a goal counts as
reached if at least 5 % of them end there. Settings are those of ``zoo_configs``. The seeds were chosen before any was run, and
every run is in the record. The folder ``first`` holds the records of an earlier plan, seeds 1200 to 1204 with a fourth of the
gradient steps or fewer, which missed both aims. The settings were then chosen on seeds 100 to 104.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from sb3_pgx.experiments.peers import constructor_arguments
from sb3_pgx.experiments.pool import json_round_trip, run_here, write_json
from sb3_pgx.experiments.runs import SEED_STRIDE, RunSpec, versions
from sb3_pgx.registry import OFF_POLICY
from sb3_pgx.settings.configs import RunConfig, load_config
from sb3_pgx.settings.environments import make_train_env
from sb3_pgx.tasks.multi_goal import GOALS

FOLDER = RESULTS / "soft_q_learning"
FIRST = FOLDER / "first"  # records of the first plan
SEEDS = (1205, 1206, 1207, 1208, 1209)
GOALS_ENV, PENDULUM = "sb3_pgx.tasks:MultiGoal-v0", "Pendulum-v1"
GOALS_STEPS, PENDULUM_STEPS = 40_000, 50_000
EPISODES = 100  # per policy, to count goals
FIRST_EPISODE = 3_000_000  # seed of the first one's start; training and evaluations have others
LEAST_SHARE = 0.05  # of the episodes, from which on a goal counts as reached
NAMES = ("soft_q_learning", "sac")


def goals_of(model: BaseAlgorithm, episodes: int = EPISODES) -> list[int]:
    """
    Return how many episodes with sampled actions end at each goal. The others end at none.

    :param model: a model that was trained on the task
    :param episodes: number of episodes
    """
    env = gym.make(GOALS_ENV)
    reached: Counter[int | None] = Counter()
    for episode in range(episodes):
        observation, _ = env.reset(seed=FIRST_EPISODE + episode)
        ended, info = False, dict[str, Any]()
        while not ended:
            action, _ = model.predict(observation, deterministic=False)
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        reached[info.get("goal")] += 1
    return [reached[goal] for goal in range(len(GOALS))]


def trained(name: str, seed: int, config: RunConfig, timesteps: int) -> BaseAlgorithm:
    """
    Return a model that was trained on the task with four goals.

    :param name: of the algorithm
    :param seed: of the run
    :param config: settings
    :param timesteps: environment steps
    """
    env = make_train_env(config, GOALS_ENV, SEED_STRIDE * seed)
    arguments = constructor_arguments(OFF_POLICY[name], config.hyperparameters)
    return OFF_POLICY[name](config.policy, env, seed=seed, device="cpu", **arguments).learn(timesteps)


def goal_runs(name: str, seeds: Iterable[int], timesteps: int) -> dict[str, Any]:
    """
    Train an algorithm on the task with four goals with each seed, and return the record.

    :param name: of the algorithm
    :param seeds: of the runs
    :param timesteps: environment steps per run
    """
    config, runs = load_config(name, GOALS_ENV), []
    for seed in seeds:
        begun = time.perf_counter()
        model = trained(name, seed, config, timesteps)
        seconds = time.perf_counter() - begun
        ends = goals_of(model)
        n_goals = sum(count >= LEAST_SHARE * EPISODES for count in ends)
        runs.append({"seed": seed, "ends": ends, "goals_reached": n_goals, "training_seconds": round(seconds, 1)})
        print(f"{name}, seed {seed}: {n_goals} goals, {ends} of {EPISODES} episodes end there", flush=True)
    return {"episodes": EPISODES, "timesteps": timesteps, "config": asdict(config), "runs": runs}


def pendulum_runs(name: str, seeds: Iterable[int], timesteps: int) -> dict[str, Any]:
    """
    Train an algorithm on Pendulum-v1 with each seed, and return the record.

    :param name: of the algorithm
    :param seeds: of the runs
    :param timesteps: environment steps per run
    """
    config = load_config(name, PENDULUM)
    specs = [RunSpec(name, OFF_POLICY[name], PENDULUM, seed, timesteps, config, 10, 5, 20) for seed in seeds]

    def note(result: Any) -> None:
        print(f"{name}, seed {result.seed}: {result.error or f'{result.mean_return:.1f}'}", flush=True)

    runs = [
        {
            "seed": run.seed,
            "steps": run.curve_steps,
            "returns": [round(x, 2) for x in run.curve_returns],
            "final_return": None if run.error else round(run.mean_return, 2),
            "training_seconds": round(run.training_seconds, 1),
            "error": run.error,
        }
        for run in run_here(specs, on_result=note)
    ]
    return {"episodes": 20, "timesteps": timesteps, "config": asdict(config), "runs": runs}


MEASUREMENTS = {"goals": (goal_runs, NAMES, GOALS_STEPS), "pendulum": (pendulum_runs, NAMES[:1], PENDULUM_STEPS)}


def record(
    what: str,
    names: Sequence[str] = NAMES,
    seeds: Sequence[int] = SEEDS,
    folder: Path = FOLDER,
    timesteps: int | None = None,
) -> dict[str, Any]:
    """
    Measure, write the record after each run, and return it. Entries of other algorithms and seeds stay if they have the same
    commit.

    :param what: a key of ``MEASUREMENTS``
    :param names: algorithms
    :param seeds: of the runs
    :param folder: where ``<what>.json`` is written
    :param timesteps: environment steps per run; ``None``: those of the measurement
    """
    th.set_num_threads(1)
    runs_of, _, default = MEASUREMENTS[what]
    source = provenance()
    path = folder / f"{what}.json"
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if written.get("commit") != source["commit"]:
        written = {}
    env_id = GOALS_ENV if what == "goals" else PENDULUM
    written |= {"command": f"python -m benchmarks.soft_q_learning {what}", **source, "versions": versions(env_id)}
    algorithms = written.setdefault("algorithms", {})
    for name, seed in ((name, seed) for name in names for seed in seeds):
        entry, before = json_round_trip(runs_of(name, [seed], timesteps or default)), algorithms.get(name)
        if before and all(entry[key] == before[key] for key in ("config", "timesteps")):
            by_seed = {run["seed"]: run for run in [*before["runs"], *entry["runs"]]}
            entry["runs"] = [by_seed[known] for known in sorted(by_seed)]
        algorithms[name] = entry
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, written)
    return written


def recorded(folder: Path = FOLDER) -> list[str]:
    """
    Return which measurements have a record.

    :param folder: that of the records
    """
    return [what for what in MEASUREMENTS if (folder / f"{what}.json").exists()]


def markdown(what: str, folder: Path = FOLDER) -> str:
    """
    Return a record as a table, with the command and the commit that measured it.

    :param what: a key of ``MEASUREMENTS``
    :param folder: that of the record
    """
    entry = json.loads((folder / f"{what}.json").read_text(encoding="utf-8"))
    seeds = [run["seed"] for run in next(iter(entry["algorithms"].values()))["runs"]]
    lines = [f"| {OF_RUN[what]} | {' | '.join(f'seed {seed}' for seed in seeds)} |", f"|---|{'--:|' * len(seeds)}"]
    for name, of_name in entry["algorithms"].items():
        lines.append(f"| `{OFF_POLICY[name].__name__}` | {' | '.join(map(_cell, of_name['runs']))} |")
    timesteps = next(iter(entry["algorithms"].values()))["timesteps"]
    by = f"Measured by `{entry['command']}` at commit `{entry['commit'][:7]}`."
    return "\n".join([*lines, "", f"After {timesteps:,} steps, with the settings of `zoo_configs`. {by}"])


OF_RUN = {
    "goals": f"goals reached (of {EPISODES} episodes, those that end at each)",
    "pendulum": "mean return of 20 deterministic episodes",
}


def _cell(run: dict[str, Any]) -> str:
    if "ends" in run:
        return f"{run['goals_reached']} ({', '.join(map(str, run['ends']))})"
    return "failed" if run["error"] else f"{run['final_return']:.1f}"


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soft_q_learning", description=(__doc__ or "").strip().split("\n")[0]
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="algorithms; default: all of the measurement")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS, help="default: all of %(choices)s")
    options = parser.parse_args(arguments)
    record(options.what, options.only or MEASUREMENTS[options.what][1], options.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
