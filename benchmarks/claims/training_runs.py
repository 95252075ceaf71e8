"""Training runs for claims about returns."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from benchmarks.claims.draws import Draw, RunOptions
from benchmarks.claims.protocol import CURVE_AREA, FINAL_RETURN, Claim
from sb3_pgx.experiments.earlier_runs import find_earlier_runs, run_missing
from sb3_pgx.experiments.peers import Peer, config_of, resolve_peer
from sb3_pgx.experiments.runs import RunResult, RunSpec, file_name, versions
from sb3_pgx.experiments.statistics import area_under_curve
from sb3_pgx.settings.configs import CLASS_DEFAULTS, RunConfig, config_folder, load_config

TUNED = "tuned"  # folder of the search results, next to the published hyperparameters
EVAL_EPISODES = 20
RUNS = "runs"  # folder of the kept runs, which is the first thing that a measurement writes

Contender = tuple[str, str, Peer, RunConfig]  # label, environment, algorithm, settings


def contenders_of(claim: Claim, configs: Path | None = None) -> list[Contender]:
    """
    Return the contenders of a claim with their settings. An improvement compares one class with the settings that a search
    found and with its defaults. All other contenders have their published settings.

    :param claim: a claim about returns or about false alarms
    :param configs: folder of hyperparameter files; default: this repository's
    :raises ValueError: a name is unknown, or a hyperparameter file has a mistake
    :raises ImportError: the package of a peer is not installed
    """
    if claim.kind == "improvement":
        (env_id,) = claim.environments
        peer = resolve_peer(claim.algorithm)
        found = load_config(claim.algorithm, env_id, (configs or config_folder()) / TUNED)
        return [("tuned", env_id, peer, found), ("defaults", env_id, peer, RunConfig(CLASS_DEFAULTS))]
    return [
        (name, env_id, peer, peer.adapt(config_of(peer, env_id, configs)))
        for name, env_id in claim.trains
        for peer in [resolve_peer(name)]
    ]


def train(claim: Claim, options: RunOptions, code: str) -> list[Draw]:
    """
    Train every contender of a claim on every seed, or on the share of ``options.shard``.

    :param claim: a claim about returns
    :param options: options of the runs. Finished runs in ``options.output`` are reused if settings, versions and code hash are
        the same. Failed runs are reused, too: a seed is not repeated because it failed
    :param code: hash of the code that training depends on
    :return: one draw per contender, environment and seed
    """
    runs = [
        RunSpec(label, peer.algorithm, env_id, seed, claim.environments[env_id], config, eval_episodes=EVAL_EPISODES)
        for label, env_id, peer, config in contenders_of(claim, options.configs)
        for seed in claim.seeds
    ]
    specs = options.shard.of(runs)
    paths, kept = None, {}
    if options.output is not None:
        paths = [run_folder(spec, options.output, code) / f"{spec.name}.json" for spec in specs]
        earlier = find_earlier_runs(specs, paths)
        kept = {**earlier.failed, **earlier.results}
    results = run_missing(specs, paths, kept, options.workers, options.progress, runner=options.runner)
    return [draw_of(result) for result in results]


def run_folder(spec: RunSpec, output: Path, code: str) -> Path:
    """Return the folder of a run. Its name contains everything that may change the outcome, except the seed."""
    content = {**asdict(spec), "seed": None, "versions": versions(spec.env_id), "code": code}
    digest = sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return output / RUNS / spec.env_id.replace("/", "-") / f"{file_name(spec.label)}-{digest}"


def draw_of(result: RunResult) -> Draw:
    """Convert the result of a run to a draw."""
    if result.error is not None:
        return Draw(result.label, result.env_id, result.seed, {}, error=result.error)
    measured = {FINAL_RETURN: result.mean_return}
    if len(result.curve_steps) > 1:
        measured[CURVE_AREA] = area_under_curve(result.curve_steps, result.curve_returns)
    return Draw(
        result.label, result.env_id, result.seed, measured, None, result.steps, result.training_seconds, result.returns
    )
