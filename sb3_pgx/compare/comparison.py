"""A comparison from its arguments to its report: everything is checked first, then trained, then written down."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sb3_pgx.common.extras import require_extra
from sb3_pgx.compare.peers import prepare
from sb3_pgx.compare.pool import run_all
from sb3_pgx.compare.report import Setting, markdown, save_curves
from sb3_pgx.compare.runs import RunResult, RunSpec
from sb3_pgx.compare.summary import Summary, summarize

CURVE_EPISODES = 5


@dataclass(frozen=True)
class Plan:
    """A comparison whose arguments were checked: the runs to do, and where their results go."""

    specs: tuple[RunSpec, ...]
    setting: Setting
    output: Path


@dataclass(frozen=True)
class Comparison:
    """What a comparison found, and where it was written: ``report.md``, ``curves.png`` and ``runs/*.json``."""

    results: list[RunResult]
    summaries: list[Summary]
    report: str
    output: Path


def compare(
    env: str,
    algorithms: Sequence[str],
    timesteps: int,
    seeds: int | Sequence[int] = 3,
    output: Path | str | None = None,
    workers: int | None = None,
    threshold: float | None = None,
    eval_episodes: int = 20,
    configs: Path | str | None = None,
    force: bool = False,
    progress: bool = True,
) -> Comparison:
    """
    Trains several algorithms over several seeds on the same budget of environment steps, and writes a table and learning
    curves. Runs are processes: call it under ``if __name__ == "__main__":``.

    :param env: Gymnasium's name of the environment
    :param algorithms: such as ``"reinforce"``, ``"sb3:ppo"``, ``"contrib:trpo"``
    :param timesteps: environment steps for each run, over all its environments
    :param seeds: how many (0, 1, …), or which ones
    :param output: folder for the results; default ``runs/compare-<env>-<time>``
    :param workers: runs at a time; default as many as there are processors
    :param threshold: return that counts as solved; default Gymnasium's reward threshold of the environment, if it has one
    :param eval_episodes: episodes that the final policy of each run plays
    :param configs: folder of hyperparameter files in rl_zoo3's format; default this package's
    :param force: whether to write into a folder that is not empty, replacing files of the same names
    :param progress: whether to show a progress bar
    :return: the results and the report
    :raises ValueError: an unknown name, or a number out of range
    :raises FileExistsError: ``output`` is not empty and ``force`` is False
    :raises ImportError: a package that this needs is not installed
    """
    plan = plan_comparison(
        env, algorithms, timesteps, seeds, output, workers, threshold, eval_episodes, configs=configs, force=force
    )
    return run_comparison(plan, progress)


def plan_comparison(
    env: str,
    algorithms: Sequence[str],
    timesteps: int,
    seeds: int | Sequence[int] = 3,
    output: Path | str | None = None,
    workers: int | None = None,
    threshold: float | None = None,
    eval_episodes: int = 20,
    configs: Path | str | None = None,
    force: bool = False,
) -> Plan:
    """Checks what can be checked before training, and creates nothing; arguments and errors of :func:`compare`."""
    require_extra()
    check_positive(timesteps=timesteps, eval_episodes=eval_episodes, workers=1 if workers is None else workers)
    chosen = _seeds(seeds)
    if not algorithms:
        raise ValueError("no algorithm to compare was given")
    if len(set(algorithms)) < len(algorithms):
        raise ValueError(f"an algorithm is named twice: {', '.join(algorithms)}")
    specs: list[RunSpec] = []
    for name in algorithms:
        peer, config, spec = prepare(name, env, None if configs is None else Path(configs))
        threshold = spec.reward_threshold if threshold is None else threshold
        specs += [
            RunSpec(
                peer.label,
                peer.algorithm,
                env,
                seed,
                timesteps,
                config,
                curve_episodes=CURVE_EPISODES,
                eval_episodes=eval_episodes,
            )
            for seed in chosen
        ]
    folder = _default_output(env) if output is None else Path(output)
    check_output(folder, force)
    n_workers = min(workers or os.cpu_count() or 1, len(specs))
    return Plan(tuple(specs), Setting(env, chosen, timesteps, threshold, eval_episodes, CURVE_EPISODES, n_workers), folder)


def run_comparison(plan: Plan, progress: bool = True) -> Comparison:
    """Does the runs of a plan and writes its report."""
    results = run_all(plan.specs, plan.output / "runs", plan.setting.workers, progress)
    summaries = summarize(results, plan.setting.threshold)
    report = markdown(summaries, plan.setting)
    (plan.output / "report.md").write_text(report, encoding="utf-8")
    save_curves(summaries, plan.setting, plan.output / "curves.png")
    return Comparison(results, summaries, report, plan.output)


def check_positive(**arguments: int) -> None:
    """:raises ValueError: an argument is below 1"""
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name.replace('_', '-')} is {value}; it must be at least 1")


def check_output(folder: Path, force: bool = False) -> None:
    """:raises FileExistsError: results would mix with what is in the folder already"""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not force):
        kind = "a file" if folder.is_file() else "not empty"
        remedy = "" if folder.is_file() else ", or use --force to replace results of the same names"
        raise FileExistsError(f"the output folder {folder} is {kind}; choose another one{remedy}")


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        check_positive(seeds=seeds)
        return tuple(range(seeds))
    check_positive(seeds=len(seeds))
    return tuple(seeds)


def _default_output(env_id: str) -> Path:
    return Path("runs") / f"compare-{re.sub(r'[^A-Za-z0-9_.-]', '-', env_id)}-{datetime.now():%Y%m%d-%H%M%S}"
