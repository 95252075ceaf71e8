"""A comparison from its arguments to its report: its arguments are checked first, then it is trained, then written down."""

import os
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.experiments.analysis import Analysis, analyse
from sb3_pgx.experiments.comparison_arguments import (
    Threshold,
    check_at_least_one,
    check_distinct,
    check_normalize,
    choose_seeds,
    find_thresholds,
)
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.earlier_runs import EarlierRuns, find_earlier_runs, run_missing
from sb3_pgx.experiments.normalized_scores import random_return
from sb3_pgx.experiments.number_format import duration
from sb3_pgx.experiments.output_folder import RECORD, check_resumable, comparison_record, folder_name, run_path
from sb3_pgx.experiments.peers import package_versions, prepare
from sb3_pgx.experiments.pool import write_json
from sb3_pgx.experiments.report import report_text, write_report
from sb3_pgx.experiments.runs import RunResult, RunSpec, versions

CURVE_EPISODES = 5


@dataclass(frozen=True)
class ComparisonPlan:
    """
    A comparison whose arguments were checked.

    :param specs: all runs
    :param design: what they share
    :param output: folder for the results
    :param finished: what an earlier start of the same comparison left there
    :param force: whether to train every run anew
    """

    specs: tuple[RunSpec, ...]
    design: ComparisonDesign
    output: Path
    finished: EarlierRuns
    force: bool = False

    @property
    def paths(self) -> list[Path]:
        """The file of each run."""
        return [run_path(self.output, spec) for spec in self.specs]

    @property
    def record(self) -> dict[str, Any]:
        """What decides the outcome."""
        return comparison_record(self.specs, self.design.versions)


@dataclass(frozen=True)
class Comparison:
    """
    What a comparison found, and where it was written.

    :param results: of all runs
    :param analysis: every number of the report
    :param report: as Markdown
    :param brief: its tables of results alone
    :param output: folder with ``report.html``, ``report.md``, pictures, tables as CSV and ``runs/``
    :param unwritten: why a part of the report could not be written there, ``None`` if all of it was
    """

    results: list[RunResult]
    analysis: Analysis
    report: str
    brief: str
    output: Path
    unwritten: OSError | None = None


def compare(
    env: str | Sequence[str],
    algorithms: Sequence[str],
    timesteps: int,
    seeds: int | Sequence[int] = 3,
    output: Path | str | None = None,
    workers: int | None = None,
    threshold: Threshold = None,
    eval_episodes: int = 20,
    configs: Path | str | None = None,
    normalize: Mapping[str, tuple[float, float]] | None = None,
    force: bool = False,
    progress: bool = True,
) -> Comparison:
    """
    Trains several algorithms in one or several environments over several seeds, on the same budget of environment steps, and
    writes a report with statistics over seeds and environments. Where ``output`` holds finished runs of the same comparison,
    they are not trained again. Runs are processes: call it under ``if __name__ == "__main__":``.

    :param env: Gymnasium's name of the environment, or several
    :param algorithms: such as ``"reinforce"``, ``"sb3:ppo"``, ``"contrib:trpo"``, ``"sbx:ppo"`` or ``"ppo[gamma=0.98]"``
    :param timesteps: environment steps for each run, over all its environments
    :param seeds: how many (0, 1, …), or which ones
    :param output: folder for the results; default ``runs/compare-<env>-<time>``
    :param workers: runs at a time; default as many as there are processors
    :param threshold: return that counts as solved, by environment where there are several; default Gymnasium's reward
        threshold of the environment, if it has one
    :param eval_episodes: episodes that the final policy of each run plays
    :param configs: folder of hyperparameter files in rl_zoo3's format; default this package's
    :param normalize: returns that count as 0 and 1, by environment; default those of
        :func:`~sb3_pgx.experiments.normalized_scores.find_scale`
    :param force: whether to write into a folder of something else, replacing files of the same names, and to train every run
        anew
    :param progress: whether to show a progress bar and a line for each run
    :return: the results and the report
    :raises ValueError: an unknown name, or a number out of range
    :raises FileExistsError: ``output`` holds something else than this comparison and ``force`` is False
    :raises ImportError: a package that this needs is not installed
    """
    plan = plan_comparison(
        env, algorithms, timesteps, seeds, output, workers, threshold, eval_episodes, configs, normalize, force
    )
    comparison = run_comparison(plan, progress)
    if comparison.unwritten is not None:
        warnings.warn(f"{comparison.unwritten}; what compare() returned has all results")
    return comparison


def plan_comparison(
    env: str | Sequence[str],
    algorithms: Sequence[str],
    timesteps: int,
    seeds: int | Sequence[int] = 3,
    output: Path | str | None = None,
    workers: int | None = None,
    threshold: Threshold = None,
    eval_episodes: int = 20,
    configs: Path | str | None = None,
    normalize: Mapping[str, tuple[float, float]] | None = None,
    force: bool = False,
) -> ComparisonPlan:
    """Checks what can be checked before training, and creates nothing; arguments and errors of :func:`compare`."""
    require_extra()
    check_at_least_one(timesteps=timesteps, eval_episodes=eval_episodes, workers=1 if workers is None else workers)
    chosen = choose_seeds(seeds)
    env_ids = check_distinct([env] if isinstance(env, str) else env, "environment")
    names = check_distinct(algorithms, "algorithm")
    normalize = {} if normalize is None else dict(normalize)
    check_normalize(normalize, env_ids)
    specs: list[RunSpec] = []
    known: dict[str, float | None] = {}
    for env_id in env_ids:
        for name in names:
            peer, config, of_env = prepare(name, env_id, None if configs is None else Path(configs))
            known[env_id] = of_env.reward_threshold
            specs += [
                RunSpec(
                    peer.label,
                    peer.algorithm,
                    env_id,
                    seed,
                    timesteps,
                    replace(config, n_timesteps=None),  # the file's budget is not this one, and decides nothing
                    curve_episodes=CURVE_EPISODES,
                    eval_episodes=eval_episodes,
                )
                for seed in chosen
            ]
    design = ComparisonDesign(
        env_ids=env_ids,
        algorithms=names,
        seeds=chosen,
        timesteps=timesteps,
        thresholds=find_thresholds(threshold, known),
        eval_episodes=eval_episodes,
        curve_episodes=CURVE_EPISODES,
        workers=min(workers or os.cpu_count() or 1, len(specs)),
        normalize=normalize,
        command=_command(env_ids, names, timesteps, chosen, threshold, eval_episodes, configs, normalize),
        versions={**versions(*env_ids), **package_versions(names)},
    )
    folder = _default_output(env_ids) if output is None else Path(output)
    check_resumable(folder, comparison_record(specs, design.versions), force)
    design = with_random_returns(design, specs)
    finished = EarlierRuns({}, ()) if force else find_earlier_runs(specs, [run_path(folder, spec) for spec in specs])
    return ComparisonPlan(tuple(specs), design, folder, finished, force)


def run_comparison(plan: ComparisonPlan, progress: bool = True, tell: Callable[[str], None] | None = None) -> Comparison:
    """
    Does the runs of a plan that are not finished yet, and writes the report.

    :param plan: of :func:`plan_comparison`
    :param progress: whether to show a progress bar and a line for each run
    :param tell: takes the lines; default writes them above the bar
    """
    make_folder(plan)
    teller = (
        _ProgressLines(len(plan.specs) - len(plan.finished.results), tell or _write_line) if progress else lambda result: None
    )
    results = run_missing(plan.specs, plan.paths, plan.finished.results, plan.design.workers, progress, teller)
    analysis = analyse(results, plan.design)
    unwritten = None
    try:
        report, brief = write_report(analysis, results, plan.design, plan.output)
    except OSError as error:  # hours of training must not be lost for it
        report, brief = report_text(analysis, results, plan.design)
        unwritten = error
    return Comparison(results, analysis, report, brief, plan.output, unwritten)


def make_folder(plan: ComparisonPlan) -> None:
    """Makes the folder and says there which comparison it is for: before hours of training, not after."""
    plan.output.mkdir(parents=True, exist_ok=True)
    if plan.force:  # else a run of before would count as finished after an interruption
        for path in plan.paths:
            path.unlink(missing_ok=True)
    write_json(plan.output / RECORD, plan.record)


def with_random_returns(design: ComparisonDesign, specs: Sequence[RunSpec]) -> ComparisonDesign:
    """The design with what a random policy gets, in the environments where a score needs it."""
    if not design.scored:
        return design
    first = {spec.env_id: spec.config for spec in reversed(specs)}
    played = {env_id: random_return(env_id, first[env_id]) for env_id in design.env_ids if env_id not in design.normalize}
    return replace(design, random_returns=played)


class _ProgressLines:
    """A line for each run that ends, with an estimate of the time that is left."""

    def __init__(self, total: int, tell: Callable[[str], None]):
        self.total, self.tell = total, tell
        self.done, self.started = 0, time.monotonic()

    def __call__(self, result: RunResult) -> None:
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        outcome = f"{result.mean_return:.1f}" if result.error is None else f"failed, {result.error}"
        estimate = f"; about {duration(left)} left" if self.done < self.total else ""
        self.tell(f"[{self.done}/{self.total}] {result.label} on {result.env_id}, seed {result.seed}: {outcome}{estimate}")


def _write_line(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)


def _command(
    env_ids: Sequence[str],
    names: Sequence[str],
    timesteps: int,
    seeds: Sequence[int],
    threshold: Threshold,
    eval_episodes: int,
    configs: Path | str | None,
    normalize: Mapping[str, tuple[float, float]],
) -> str:
    """What reproduces the comparison, apart from where its results go."""
    words = ["sb3-pgx", "compare", "--env", *env_ids, "--algos", *names, "--timesteps", str(timesteps)]
    words += (
        ["--seeds", str(len(seeds))]
        if [*seeds] == [*range(len(seeds))]
        else ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    )
    if isinstance(threshold, Mapping):
        words += ["--threshold", *(f"{env_id}={value}" for env_id, value in threshold.items())] if threshold else []
    elif threshold is not None:
        words += ["--threshold", f"{threshold}"]
    words += ["--eval-episodes", str(eval_episodes)] if eval_episodes != 20 else []
    words += ["--configs", str(configs)] if configs is not None else []
    words += ["--normalize", *(f"{env_id}={low},{high}" for env_id, (low, high) in normalize.items())] if normalize else []
    return shlex.join(words)


def _default_output(env_ids: Sequence[str]) -> Path:
    name = folder_name(env_ids[0]) if len(env_ids) == 1 else f"{len(env_ids)}-environments"
    return Path("runs") / f"compare-{name}-{datetime.now():%Y%m%d-%H%M%S}"
