"""The runs behind a claim: published settings, and no run that is finished already is trained again."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import Settings
from sb3_pgx.experiments.earlier_runs import find_earlier_runs, run_missing
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.peers import Peer, prepare
from sb3_pgx.experiments.runs import RunResult, RunSpec, file_name, versions
from sb3_pgx.experiments.statistics import (
    bootstrap_interval,
    bootstrap_interval_of_groups,
    interquartile_mean,
    interquartile_mean_difference,
)
from sb3_pgx.settings.configs import RunConfig

# Hyperparameters are tuned on seeds 100 and up: none of these had a say in them.
SEEDS = (0, 1, 2, 3, 4)
EVAL_EPISODES = 20


def measure(
    algorithm: str, env_id: str, timesteps: int, seeds: Sequence[int], settings: Settings, eval_episodes: int = EVAL_EPISODES
) -> list[RunResult]:
    """
    Runs of one algorithm with its published settings. Those that ``settings.output`` holds with the same settings, budget,
    evaluation and versions are taken from there; a failed one is tried again.

    :param algorithm: as a comparison names it
    :param env_id: Gymnasium's name of the environment
    :param timesteps: environment steps for each run, over all its environments
    :param seeds: of the runs
    :param settings: how to measure
    :param eval_episodes: episodes that each final policy plays
    :return: one result for each seed
    :raises ValueError: an unknown name, or a broken hyperparameter file
    :raises ImportError: a package that the algorithm or the environment needs is not installed
    """
    peer, config, _ = prepare(algorithm, env_id, settings.configs)
    return measure_config(peer, config, env_id, timesteps, seeds, settings, eval_episodes)


def measure_config(
    peer: Peer,
    config: RunConfig,
    env_id: str,
    timesteps: int,
    seeds: Sequence[int],
    settings: Settings,
    eval_episodes: int = EVAL_EPISODES,
) -> list[RunResult]:
    """As :func:`measure`, with settings that need not be published."""
    specs = [
        RunSpec(peer.label, peer.algorithm, env_id, seed, timesteps, config, eval_episodes=eval_episodes) for seed in seeds
    ]
    if settings.output is None:
        return run_missing(specs, None, {}, settings.workers, settings.progress)
    folder = run_folder(specs[0], settings.output)
    paths = [folder / f"{spec.name}.json" for spec in specs]
    return run_missing(specs, paths, find_earlier_runs(specs, paths).results, settings.workers, settings.progress)


def run_folder(spec: RunSpec, output: Path) -> Path:
    """Where the runs of all seeds are kept: whatever else is part of a run, and may change its outcome, is in the name."""
    content = {**asdict(spec), "seed": None, "versions": versions(spec.env_id)}
    digest = sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return output / "runs" / spec.env_id.replace("/", "-") / f"{file_name(spec.label)}-{digest}"


def describe(results: Sequence[RunResult]) -> dict[str, Any]:
    """What a record says about the runs of one algorithm in one environment: a summary, every seed, and the settings."""
    finished = [r for r in results if r.error is None]
    means = [r.mean_return for r in finished]
    return {
        "interquartile_mean": float(interquartile_mean(means)) if means else None,
        "interval_95": [float(end) for end in bootstrap_interval(means, interquartile_mean)] if len(means) > 1 else None,
        "mean_return_per_seed": {str(r.seed): r.mean_return for r in finished},
        "returns_per_seed": {str(r.seed): r.returns for r in finished},
        "steps_per_seed": {str(r.seed): r.steps for r in finished},
        "errors": {str(r.seed): r.error for r in results if r.error is not None},
        "hyperparameters": results[0].config,
    }


def tell(results: Sequence[RunResult]) -> list[str]:
    """A line for each run."""
    return [
        f"seed {r.seed}: {r.mean_return:.1f} after {thousands(r.steps)} steps"
        if r.error is None
        else f"seed {r.seed}: failed, {r.error}"
        for r in results
    ]


def difference_of(per_seed: dict[str, dict[int, float]]) -> dict[str, Any]:
    """
    What a record says about the difference of two labels' interquartile means, the first one's minus the second's.

    :param per_seed: by label, a number for each seed
    """
    ours, theirs = (list(values.values()) for values in per_seed.values())
    low, high = bootstrap_interval_of_groups([ours, theirs], interquartile_mean_difference)
    return {
        "interquartile_mean": {label: float(interquartile_mean([*values.values()])) for label, values in per_seed.items()},
        "difference": float(interquartile_mean_difference(ours, theirs)),
        "interval_95": [low, high],
        "width": high - low,
        "per_seed": {label: {str(seed): value for seed, value in values.items()} for label, values in per_seed.items()},
    }


def tell_difference(name: str, difference: dict[str, Any]) -> str:
    """A line for what :func:`difference_of` found, of what ``name`` says."""
    means = ", ".join(f"{label} {mean:.1f}" for label, mean in difference["interquartile_mean"].items())
    low, high = difference["interval_95"]
    return (
        f"{name}: {means}; difference {difference['difference']:.1f}, 95 % interval [{low:.1f}, {high:.1f}], "
        f"{difference['width']:.1f} wide"
    )
