"""What a tuning is asked to do, checked before anything is written or trained."""

import dataclasses
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_pgx.core.optional_packages import COMPARISON, require_extra
from sb3_pgx.experiments.comparison import check_at_least_one
from sb3_pgx.experiments.peers import Peer, config_of, own_file, resolve_peer
from sb3_pgx.experiments.runs import RunSpec, file_name, steps_between_points
from sb3_pgx.settings.configs import RunConfig, check_hyperparameters
from sb3_pgx.settings.environments import check_environment
from sb3_pgx.settings.search_spaces import merged, search_space

FIRST_SEED = 100  # claims are measured on seeds from 0 up, and a seed that chose the hyperparameters cannot judge them
PRUNERS = ("median", "hyperband", "wilcoxon", "none")
SAMPLERS = ("tpe", "random")
CURVE_EPISODES = 5
SEEDS_FOR_WILCOXON = 5
PAGE_HEAD = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>'  # of the report
PACKAGES = ("optuna", *COMPARISON, "plotly")


@dataclass(frozen=True)
class TuningPlan:
    """
    A tuning whose arguments were checked. Machines that share a study agree on all of it but where files go, how many workers
    and how many trials there are, and the sampler.
    """

    peer: Peer
    env_id: str
    config: RunConfig
    timesteps: int
    seeds: tuple[int, ...]
    trials: int
    workers: int
    pruner: str
    sampler: str
    sampler_seed: int | None
    evaluations: int
    eval_episodes: int
    output: Path
    storage: str
    study_name: str
    force: bool

    @property
    def algorithm(self) -> str:
        """Whose search space it is."""
        return self.peer.config_key

    @property
    def in_lock_step(self) -> bool:
        """Whether the seeds of a trial advance together, so that it can be pruned by their mean."""
        return self.pruner in ("median", "hyperband")

    @property
    def title(self) -> str:
        """Of the report."""
        return f"{self.peer.label} on {self.env_id}: {self.study_name}"

    @property
    def report(self) -> Path:
        """A page that needs no server."""
        return self.output / "report.html"

    @property
    def config_file(self) -> Path:
        """Where the best settings go, under the name by which ``compare --configs`` finds them."""
        return self.output / "best" / f"{own_file(self.peer)}.yml"

    def config_with(self, hyperparameters: dict[str, Any], source: str) -> RunConfig:
        """The configuration with a trial's hyperparameters; statistics of the reward are those of its γ."""
        changed = self.config.with_hyperparameters(merged(self.config.hyperparameters, hyperparameters))
        return dataclasses.replace(changed, source=source)

    def specs(self, hyperparameters: dict[str, Any], source: str) -> tuple[RunSpec, ...]:
        """The runs of a trial, one a seed."""
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
        """Environment steps from one evaluation to the next: the same in every trial."""
        return steps_between_points(self.timesteps, self.evaluations, self.config.n_envs)

    def agreement(self) -> dict[str, Any]:
        """What has to be the same for trials to be comparable, as JSON has it."""
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
    pruner: str = "median",
    sampler: str = "tpe",
    sampler_seed: int | None = None,
    evaluations: int = 10,
    eval_episodes: int = 20,
    output: Path | str | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    configs: Path | str | None = None,
    force: bool = False,
) -> TuningPlan:
    """Checks what can be checked before training, and creates nothing; arguments and errors of ``tune``."""
    require_extra("tuning runs", PACKAGES, extra="zoo")
    if "[" in algorithm:
        raise ValueError(f"algorithm {algorithm!r}: to tune beside settings of your own, put them into a file for --configs")
    peer = resolve_peer(algorithm)
    config = config_of(peer, env, None if configs is None else Path(configs))
    search_space(peer.config_key, config.policy)
    check_hyperparameters(peer.algorithm, peer.adapt(config))
    check_environment(env, config)
    timesteps = config.n_timesteps if timesteps is None else timesteps
    if timesteps is None:
        raise ValueError(f"{config.source} has no n_timesteps: say with --timesteps how long a training is")
    check_at_least_one(trials=trials, timesteps=timesteps, evaluations=evaluations, eval_episodes=eval_episodes)
    check_at_least_one(workers=1 if workers is None else workers)
    if sampler_seed is not None and sampler_seed < 0:
        raise ValueError(f"sampler_seed is {sampler_seed}; it must be at least 0")
    chosen = _seeds(seeds)
    for name, value, known in (("pruner", pruner, PRUNERS), ("sampler", sampler, SAMPLERS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; choose {', '.join(known)}")
    if pruner == "wilcoxon" and len(chosen) < SEEDS_FOR_WILCOXON:
        raise ValueError(
            f"the Wilcoxon pruner cannot tell {len(chosen)} seeds apart (p = 1/16 after 4 of them is the first below 0.1): "
            f"use --seeds {SEEDS_FOR_WILCOXON} or more, or another pruner"
        )
    name = study_name or f"tune-{file_name(algorithm)}-{re.sub(r'[^A-Za-z0-9_.-]', '-', env)}"
    folder = Path("runs") / name if output is None else Path(output)
    if folder.is_file():
        raise FileExistsError(f"the output folder {folder} is a file; choose another one")
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
    )
    _check_report(plan)
    return plan


def _check_report(plan: TuningPlan) -> None:
    """What an earlier call wrote of the same study is written anew; what another study left would be lost."""
    if not plan.report.is_file():
        return
    page = plan.report.read_bytes()
    if f"{PAGE_HEAD}{html.escape(plan.title)}</title>".encode().startswith(page):  # ours, cut off before its title ends
        return
    title = re.search("<title>(.*?)</title>", page.decode(errors="replace"))
    if title is None or html.unescape(title[1]) != plan.title:
        whose = "something else" if title is None else f"another study ({html.unescape(title[1])})"
        raise FileExistsError(f"{plan.report} is of {whose}: choose another --output")


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        check_at_least_one(seeds=seeds)
        return tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    check_at_least_one(seeds=len(seeds))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is named twice: {', '.join(map(str, seeds))}")
    return tuple(seeds)
