"""The arguments of a hyperparameter search, checked before anything is written or trained."""

import dataclasses
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from sb3_pgx.core.optional_packages import COMPARISON, require_extra
from sb3_pgx.experiments.budgets import check_budget, shorten_rollouts
from sb3_pgx.experiments.comparison import check_at_least_one
from sb3_pgx.experiments.peers import Peer, config_of, own_file, resolve_peer
from sb3_pgx.experiments.runs import RunSpec, file_name, steps_between_points
from sb3_pgx.pages.html import HEAD
from sb3_pgx.registry import EVERY_ALGORITHM
from sb3_pgx.settings.configs import SUBPROC, RunConfig, check_hyperparameters
from sb3_pgx.settings.environments import check_environment, choose_policy
from sb3_pgx.settings.search_spaces import merged, search_space

FIRST_SEED = 100  # reports use other seeds: a seed that chose the hyperparameters gives a biased score
Pruner: TypeAlias = Literal["median", "hyperband", "wilcoxon", "none"]
Sampler: TypeAlias = Literal["tpe", "random"]
CURVE_EPISODES = 5
SEEDS_FOR_WILCOXON = 5
GRACE_SECONDS = 30  # Optuna's
DEAD_SECONDS = 180.0
PACKAGES = ("optuna", *COMPARISON)


@dataclass(frozen=True)
class TuningPlan:
    """
    A search whose arguments have been checked; :func:`~sb3_pgx.tuning.tuner.tune` documents them. Machines that share a study
    must agree on everything except ``output``, ``storage``, ``workers``, ``trials``, the sampler, and these times:

    :param seconds_to_connect: how long to wait for a gRPC proxy
    :param seconds_to_start: how long to wait for a machine that has created the study to store its settings
    :param lock_seconds: a lock of a journal file that is held for longer without a write belongs to a dead process
    :param dead_seconds: a machine that is silent for longer counts as dead; it must exceed differences between clocks
    :param timeout_per_trial: as of :func:`~sb3_pgx.tuning.tuner.tune`
    :param progress: as of that function
    """

    peer: Peer
    env_id: str
    config: RunConfig
    timesteps: int
    seeds: tuple[int, ...]
    trials: int
    workers: int
    pruner: Pruner
    sampler: Sampler
    sampler_seed: int | None
    evaluations: int
    eval_episodes: int
    output: Path
    storage: str
    study_name: str
    force: bool
    seconds_to_connect: float = 10.0
    seconds_to_start: float = 5.0
    lock_seconds: int = GRACE_SECONDS
    dead_seconds: float = DEAD_SECONDS
    timeout_per_trial: float | None = None
    progress: bool = True

    @property
    def algorithm(self) -> str:
        """Name of the algorithm whose search space is used."""
        return self.peer.config_key

    @property
    def in_lock_step(self) -> bool:
        """Whether the seeds of a trial advance together, so that their mean return can decide on pruning."""
        return self.pruner in ("median", "hyperband")

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"{self.peer.label} on {self.env_id}: {self.study_name}"

    @property
    def report(self) -> Path:
        """Path of the report, a self-contained web page."""
        return self.output / "report.html"

    @property
    def config_file(self) -> Path:
        """Path of the hyperparameter file with the best settings, under the name that ``compare --configs`` looks for."""
        return self.output / "best" / f"{own_file(self.peer)}.yml"

    def config_with(self, hyperparameters: dict[str, Any], source: str) -> RunConfig:
        """Return the configuration with a trial's hyperparameters. ``VecNormalize`` gets the trial's γ."""
        changed = self.config.with_hyperparameters(merged(self.config.hyperparameters, hyperparameters))
        return dataclasses.replace(changed, source=source)

    def specs(self, hyperparameters: dict[str, Any], source: str) -> tuple[RunSpec, ...]:
        """Return the runs of a trial, one per seed."""
        config = self.peer.adapt(self.config_with(hyperparameters, source))
        return tuple(
            RunSpec(
                self.peer.label,
                self.peer.algorithm,
                self.env_id,
                seed,
                self.timesteps,
                config,
                curve_points=self.evaluations if self.in_lock_step else 0,
                curve_episodes=CURVE_EPISODES,
                eval_episodes=self.eval_episodes,
            )
            for seed in self.seeds
        )

    @property
    def steps_between_points(self) -> int:
        """Environment steps from one evaluation to the next, which are the same in every trial."""
        return steps_between_points(self.timesteps, self.evaluations, self.config.n_envs)

    def agreement(self) -> dict[str, Any]:
        """Return the settings that must agree for trials to be comparable, in JSON's types."""
        config = dataclasses.asdict(self.config)
        del config["source"]
        return {
            "algorithm": self.peer.label,
            "environment": self.env_id,
            "timesteps": self.timesteps,
            "seeds": list(self.seeds),
            "pruner": self.pruner,
            **({"evaluations": self.evaluations} if self.in_lock_step else {}),
            "eval-episodes": self.eval_episodes,
            "search space": [repr(dimension) for dimension in search_space(self.algorithm, self.config.policy)],
            "configuration": {name: repr(value) for name, value in sorted(config.items())},
        }


def plan_tuning(
    algorithm: str,
    env: str,
    trials: int = 20,
    timesteps: int | None = None,
    seeds: int | Sequence[int] = 3,
    workers: int | None = None,
    pruner: Pruner = "median",
    sampler: Sampler = "tpe",
    sampler_seed: int | None = None,
    evaluations: int = 10,
    eval_episodes: int = 20,
    output: Path | str | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    configs: Path | str | None = None,
    vec_env: str | None = None,
    force: bool = False,
    progress: bool = True,
    timeout_per_trial: float | None = None,
) -> TuningPlan:
    """
    Check everything that can be checked before training. Create nothing. Arguments and errors are those of
    :func:`~sb3_pgx.tuning.tuner.tune`.
    """
    require_extra("tuning runs", PACKAGES, extra="zoo")
    if "[" in algorithm:
        raise ValueError(f"algorithm {algorithm!r} cannot be tuned: put the settings in brackets into a file for --configs")
    peer = resolve_peer(algorithm)
    if peer.config_key not in EVERY_ALGORITHM:
        raise ValueError(
            f"{algorithm} has no search space; choose one of {', '.join(EVERY_ALGORITHM)}, or sb3:ppo and its like"
        )
    config = config_of(peer, env, None if configs is None else Path(configs)).with_vec_env(vec_env)
    if config.vec_env == SUBPROC:
        raise ValueError(
            f"{config.source}: a worker of a search starts no processes of its own: choose another vec_env, such as dummy"
        )
    check_hyperparameters(peer.algorithm, peer.adapt(config))
    config = choose_policy(config, check_environment(env, config, peer.algorithm).observation_space, peer.algorithm)
    timesteps = config.n_timesteps if timesteps is None else timesteps
    if timesteps is None:
        raise ValueError(f"{config.source} has no n_timesteps: give the length of a run with --timesteps")
    check_at_least_one(trials=trials, timesteps=timesteps, evaluations=evaluations, eval_episodes=eval_episodes)
    check_at_least_one(workers=1 if workers is None else workers)
    config = shorten_rollouts(peer.algorithm, config, timesteps)
    check_budget(peer.label, env, peer.algorithm, config, timesteps)
    if sampler_seed is not None and sampler_seed < 0:
        raise ValueError(f"sampler_seed is {sampler_seed}; it must be at least 0")
    chosen = _seeds(seeds)
    for name, value, known in (("pruner", pruner, get_args(Pruner)), ("sampler", sampler, get_args(Sampler))):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; choose {', '.join(known)}")
    if pruner == "wilcoxon" and len(chosen) < SEEDS_FOR_WILCOXON:
        raise ValueError(
            f"the Wilcoxon pruner can never prune with {len(chosen)} seeds (after 4 seeds, its smallest p-value is 1/16, the "
            f"first below 0.1): use --seeds {SEEDS_FOR_WILCOXON} or more, or another pruner"
        )
    name = study_name or f"tune-{file_name(algorithm)}-{re.sub(r'[^A-Za-z0-9_.-]', '-', env)}"
    folder = Path("runs") / name if output is None else Path(output)
    if folder.is_file():
        raise FileExistsError(f"the output folder {folder} is a file; choose another folder")
    plan = TuningPlan(
        peer=peer,
        env_id=env,
        config=dataclasses.replace(config, n_timesteps=timesteps),
        timesteps=timesteps,
        seeds=chosen,
        trials=trials,
        workers=workers or os.cpu_count() or 1,
        pruner=pruner,
        sampler=sampler,
        sampler_seed=sampler_seed,
        evaluations=evaluations,
        eval_episodes=eval_episodes,
        output=folder,
        storage=storage or str(folder / "journal.log"),
        study_name=name,
        force=force,
        timeout_per_trial=timeout_per_trial,
        progress=progress,
    )
    _check_report(plan)
    return plan


def _check_report(plan: TuningPlan) -> None:
    """Check that no report of another study would be overwritten. A report of the same study is replaced."""
    if not plan.report.is_file():
        return
    page = plan.report.read_bytes()
    if f"{HEAD}{html.escape(plan.title)}</title>".encode().startswith(page):  # ours, cut off within its title
        return
    title = re.search("<title>(.*?)</title>", page.decode(errors="replace"))
    if title is None or html.unescape(title[1]) != plan.title:
        whose = "something else" if title is None else f"another study ({html.unescape(title[1])})"
        raise FileExistsError(f"{plan.report} belongs to {whose}: choose another --output")


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        check_at_least_one(seeds=seeds)
        return tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    check_at_least_one(seeds=len(seeds))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is given twice: {', '.join(map(str, seeds))}")
    return tuple(seeds)
