"""A comparison from its arguments to its report: check the arguments, train the missing runs, write the report."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import claimed_folder
from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.core.planned_functions import planned_by
from sb3_pgx.experiments.analysis import Analysis, analyse
from sb3_pgx.experiments.budgets import check_budget
from sb3_pgx.experiments.command import command_of, default_output
from sb3_pgx.experiments.comparison_arguments import (
    Threshold,
    check_at_least_one,
    check_distinct,
    check_margin,
    check_normalize,
    choose_looks,
    choose_seeds,
    find_thresholds,
)
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.earlier_runs import EarlierRuns, find_earlier_runs, run_missing
from sb3_pgx.experiments.number_format import quantity
from sb3_pgx.experiments.output_folder import RECORD, check_resumable, comparison_record, run_path
from sb3_pgx.experiments.peers import package_versions, prepare
from sb3_pgx.experiments.pool import Runner, run_all, write_json
from sb3_pgx.experiments.random_policy import random_returns
from sb3_pgx.experiments.report import report_text, write_report
from sb3_pgx.experiments.runs import RunResult, RunSpec, versions
from sb3_pgx.experiments.shards import WHOLE, Shard
from sb3_pgx.experiments.verdicts import are_decided
from sb3_pgx.pages.blocks import Section
from sb3_pgx.settings.configs import ENVPOOL

CURVE_EPISODES = 5


@dataclass(frozen=True)
class ComparisonPlan:
    """
    A comparison whose arguments have been checked.

    :param specs: all runs
    :param design: the settings that the runs share
    :param output: folder for the results
    :param earlier: results that an earlier start of the same comparison left there
    :param force: whether to repeat every run
    :param retry_failed: whether to repeat failed runs
    :param progress: whether to show the progress of the runs
    :param runner: executes the runs
    :param shard: the share of the runs that this process trains
    """

    specs: tuple[RunSpec, ...]
    design: ComparisonDesign
    output: Path
    earlier: EarlierRuns
    force: bool = False
    retry_failed: bool = False
    progress: bool = True
    runner: Runner = run_all
    shard: Shard = WHOLE

    @property
    def paths(self) -> list[Path]:
        """The result file of each run."""
        return [run_path(self.output, spec) for spec in self.specs]

    @property
    def share(self) -> Sequence[int]:
        """The indices in ``specs`` of the runs that this process trains."""
        return self.shard.of(range(len(self.specs)))

    @property
    def kept(self) -> dict[int, RunResult]:
        """The results of an earlier start that are not repeated, by the index of the run."""
        return {**({} if self.retry_failed else self.earlier.failed), **self.earlier.results}

    @property
    def reused(self) -> list[int]:
        """The indices of the runs in :attr:`share` that are not repeated."""
        return [index for index in self.share if index in self.kept]

    def first_seeds(self, n_seeds: int, results: Mapping[int, RunResult]) -> "tuple[ComparisonPlan, list[int]]":
        """
        Return the plan for the first seeds, and the indices of its runs in this plan.

        :param n_seeds: number of seeds
        :param results: results so far, by their index in this plan
        """
        seeds = self.design.seeds[:n_seeds]
        indices = [i for i, spec in enumerate(self.specs) if spec.seed in seeds]
        known = {place: results[i] for place, i in enumerate(indices) if i in results}
        failed = {place: result for place, result in known.items() if result.error is not None}
        finished = {place: result for place, result in known.items() if result.error is None}
        specs, design = tuple(self.specs[i] for i in indices), replace(self.design, seeds=seeds)
        return replace(
            self, specs=specs, design=design, earlier=EarlierRuns(finished, failed), retry_failed=False, force=False
        ), indices

    @property
    def record(self) -> dict[str, Any]:
        """The settings that decide the outcome, as stored in the output folder."""
        return comparison_record(self.specs, self.design.versions)


@dataclass(frozen=True)
class Comparison:
    """
    The outcome of a comparison.

    :param results: one result per run
    :param analysis: every number of the report
    :param report: the report as Markdown
    :param brief: the tables of results alone, as Markdown
    :param output: folder with ``report.html``, ``report.md``, pictures, tables as CSV and ``runs/``
    :param unwritten: the error that kept a part of the report from being written; ``None`` if all of it was written
    """

    results: list[RunResult]
    analysis: Analysis
    report: str
    brief: str
    output: Path
    unwritten: OSError | None = None


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
    vec_env: str | None = None,
    force: bool = False,
    progress: bool = True,
    equivalence: float | None = None,
    until_decided: int | None = None,
    runner: Runner | None = None,
    retry_failed: bool = False,
    timeout_per_run: float | None = None,
) -> ComparisonPlan:
    """
    Check all that can be checked before training. Create nothing. Arguments and errors are those of :func:`compare`.
    """
    require_extra()
    check_at_least_one(timesteps=timesteps, eval_episodes=eval_episodes, workers=1 if workers is None else workers)
    chosen, looks = choose_looks(choose_seeds(seeds), until_decided)
    margin = check_margin(equivalence)
    env_ids = check_distinct([env] if isinstance(env, str) else env, "environment")
    names = check_distinct(algorithms, "algorithm")
    normalize = {} if normalize is None else dict(normalize)
    check_normalize(normalize, env_ids)
    specs: list[RunSpec] = []
    known: dict[str, float | None] = {}
    for env_id in env_ids:
        for name in names:
            peer, config, of_env = prepare(name, env_id, None if configs is None else Path(configs), vec_env)
            check_budget(peer.label, env_id, peer.algorithm, config, timesteps)
            known[env_id] = of_env.reward_threshold
            specs += [
                RunSpec(
                    peer.label,
                    peer.algorithm,
                    env_id,
                    seed,
                    timesteps,
                    replace(config, n_timesteps=None),  # the budget is `timesteps`, whatever the file says
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
        command=command_of(
            env_ids, names, timesteps, chosen, threshold, eval_episodes, configs, normalize, vec_env, margin, looks
        ),
        versions={**versions(*env_ids, envpool=any(s.config.vec_env == ENVPOOL for s in specs)), **package_versions(names)},
        margin=margin,
        looks=looks,
    )
    folder = default_output(env_ids) if output is None else Path(output)
    check_resumable(folder, comparison_record(specs, design.versions), force)
    design = with_random_returns(design, specs, timeout_per_run)
    earlier = EarlierRuns() if force else find_earlier_runs(specs, [run_path(folder, spec) for spec in specs])
    runner = runner or partial(run_all, timeout=timeout_per_run)
    return ComparisonPlan(tuple(specs), design, folder, earlier, force, retry_failed, progress, runner)


@planned_by(plan_comparison)
def compare(plan: ComparisonPlan) -> Comparison:
    """
    Train several algorithms in one or several environments with several seeds, on the same budget of environment steps, and
    write a report with statistics over seeds and environments. Finished runs of the same comparison in ``output`` are reused.
    Each run is a process of its own, so call this function under ``if __name__ == "__main__":``.

    :param env: Gymnasium's name of the environment, or a list of names
    :param algorithms: names such as ``"reinforce"``, ``"sb3:ppo"``, ``"contrib:trpo"``, ``"sbx:ppo"`` or
        ``"ppo[gamma=0.98]"``
    :param timesteps: environment steps per run, summed over the run's parallel environments
    :param seeds: a number of seeds (0, 1, …), or the seeds themselves. Intervals from fewer than 10 seeds are too narrow.
    :param output: folder for the results; default ``runs/compare-<env>-<time>``
    :param workers: number of runs that train at the same time; default: the number of processors
    :param threshold: return that counts as solved; a dictionary by environment if there are several. Default: Gymnasium's
        reward threshold, if the environment has one
    :param eval_episodes: episodes that the final policy of each run plays
    :param configs: folder of hyperparameter files in rl_zoo3's format; default: this package's
    :param normalize: returns that count as 0 and as 1, by environment; default: see
        :func:`~sb3_pgx.experiments.normalized_scores.find_scale`
    :param vec_env: how the environments of every run step: ``"dummy"`` (one by one), ``"subproc"`` (in a process each),
        ``"vector"`` (as arrays) or ``"envpool"`` (as arrays, in C++). Default: ``vec_env`` of the hyperparameter files, or
        ``"dummy"``
    :param force: whether to repeat every run, and to write into a folder that holds something else. Files of the same names
        are replaced.
    :param progress: whether to show the progress of the runs
    :param runner: executes the runs: :func:`~sb3_pgx.experiments.pool.run_all` in processes (the default),
        :func:`~sb3_pgx.experiments.pool.run_here` in this one, or a function of your own with the same arguments
    :param equivalence: largest difference of two means that counts as equivalent, in units of return, or of score if there
        are several environments or ``normalize``. Default: no pair is called equivalent
    :param until_decided: most seeds per algorithm. ``seeds`` are then the seeds of the first batch; batches of that size are
        added until every pair is better, worse or equivalent. Default: only ``seeds``
    :param retry_failed: whether to repeat runs that failed in an earlier start
    :param timeout_per_run: seconds after which a run is ended and counts as failed; default: none
    :return: the results and the report
    :raises ValueError: a name is unknown, or a number is out of range
    :raises FileExistsError: ``output`` holds something other than this comparison and ``force`` is False
    :raises ImportError: a required package is not installed
    """
    with opened_folder(plan):
        comparison = run_comparison(plan)
    if comparison.unwritten is not None:
        warnings.warn(f"{comparison.unwritten}; the value that compare() returned has all results")
    return comparison


def run_comparison(plan: ComparisonPlan) -> Comparison:
    """
    Execute the runs of a plan that are not finished yet, and write the report. If the plan has looks, execute the runs up to
    the first look at which every pair of algorithms is decided. A look at finished runs counts as any other.
    Call this within :func:`opened_folder`.

    :param plan: the result of :func:`plan_comparison`, for the whole comparison
    """
    if not plan.design.looks:
        return report_runs(run_share(plan), plan.design, plan.output)
    results: dict[int, RunResult] = dict(plan.kept)
    for n_seeds in plan.design.looks:
        part, indices = plan.first_seeds(n_seeds, results)
        outcome = run_share(part)
        results |= dict(zip(indices, outcome, strict=True))
        decided = are_decided([pair.verdict for pair in analyse(outcome, part.design).pairs])
        if plan.progress:
            more = next((look - n_seeds for look in plan.design.looks if look > n_seeds), 0)
            then = f"; {more} more {'is' if more == 1 else 'are'} trained" if more and not decided else ""
            print(
                f"after {quantity(n_seeds, 'seed')}, {'every' if decided else 'not every'} pair is decided{then}", flush=True
            )
        if decided:
            break
    return report_runs(outcome, part.design, plan.output)


def run_share(plan: ComparisonPlan) -> list[RunResult]:
    """
    Execute the runs of the plan's shard that are not finished yet, and write no report. Call this within
    :func:`opened_folder`.

    :param plan: the result of :func:`plan_comparison`
    :return: one result per run of the shard
    """
    specs, paths = [plan.specs[index] for index in plan.share], [plan.paths[index] for index in plan.share]
    finished = {place: plan.kept[i] for place, i in enumerate(plan.share) if i in plan.kept}
    on_result = _ProgressLines(len(specs) - len(finished)) if plan.progress else lambda result: None
    return run_missing(specs, paths, finished, plan.design.workers, plan.progress, on_result, plan.runner)


def report_finished(plan: ComparisonPlan) -> Comparison:
    """
    Write the report of the runs that the plan found in its folder. Execute nothing.

    :param plan: the result of :func:`plan_comparison`
    :raises FileNotFoundError: there is no run
    """
    found = {**plan.earlier.failed, **plan.earlier.results}
    if not found:
        raise FileNotFoundError(f"the output folder {plan.output} holds no run of this comparison")
    return report_runs([found[index] for index in sorted(found)], replace(plan.design, workers=None), plan.output)


def report_runs(
    results: list[RunResult], design: ComparisonDesign, output: Path, preface: tuple[Section, ...] = ()
) -> Comparison:
    """
    Write the report.

    :param results: results of runs; the report names those that are missing
    :param design: the settings that the runs share
    :param output: an existing folder
    :param preface: sections that come before all others
    """
    analysis = analyse(results, design)
    unwritten = None
    try:
        report, brief = write_report(analysis, results, design, output, preface)
    except OSError as error:  # this must not lose hours of training
        report, brief = report_text(analysis, results, design, preface)
        unwritten = error
    return Comparison(results, analysis, report, brief, output, unwritten)


@contextmanager
def opened_folder(plan: ComparisonPlan) -> Iterator[None]:
    """
    Create the output folder, record there which comparison it holds, and keep other processes out until the block ends. Only
    shards of a comparison may work there at the same time. Errors show before hours of training, not after.

    :param plan: the result of :func:`plan_comparison`
    :raises FileExistsError: another process works in the folder
    :raises OSError: the folder cannot be written
    """
    with claimed_folder(plan.output, shared=plan.shard != WHOLE):
        if plan.force:  # otherwise an old run would count as finished after an interruption
            for index in plan.share:
                plan.paths[index].unlink(missing_ok=True)
        write_json(plan.output / RECORD, plan.record)
        yield


def with_random_returns(design: ComparisonDesign, specs: Sequence[RunSpec], timeout: float | None) -> ComparisonDesign:
    """Add the mean return of a random policy, or why there is none, for each environment whose scale needs it."""
    if not design.scored:
        return design
    first = {spec.env_id: spec.config for spec in reversed(specs)}
    unknown = {env_id: first[env_id] for env_id in design.env_ids if env_id not in design.normalize}
    returns, failures = random_returns(unknown, timeout)
    return replace(design, random_returns=returns, random_failures=failures)


class _ProgressLines:
    """Prints one line per finished run."""

    def __init__(self, total: int):
        self.total, self.done = total, 0

    def __call__(self, result: RunResult) -> None:
        self.done += 1
        outcome = f"{result.mean_return:.1f}" if result.error is None else f"failed: {result.error}"
        print(f"[{self.done}/{self.total}] {result.label} on {result.env_id}, seed {result.seed}: {outcome}", flush=True)
