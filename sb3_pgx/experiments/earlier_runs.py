"""Finds the runs that a folder holds, and trains only the rest: missing runs, and those with incomplete files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sb3_pgx.experiments.pool import OnResult, Runner, json_round_trip, read_result, run_all
from sb3_pgx.experiments.runs import RunResult, RunSpec


@dataclass(frozen=True)
class EarlierRuns:
    """
    Results that an earlier, perhaps interrupted, start left.

    :param results: finished runs, by their index in the list of runs
    :param failed: failed runs, by their index in the list of runs
    :param damaged: existing result files that are incomplete or belong to different settings
    """

    results: dict[int, RunResult] = field(default_factory=dict)
    failed: dict[int, RunResult] = field(default_factory=dict)
    damaged: tuple[Path, ...] = ()


def find_earlier_runs(specs: Sequence[RunSpec], paths: Sequence[Path]) -> EarlierRuns:
    """
    Find the runs that have been executed already.

    :param specs: the runs to look for
    :param paths: the result file of each run
    """
    results: dict[int, RunResult] = {}
    failures: dict[int, RunResult] = {}
    damaged = []
    for index, (spec, path) in enumerate(zip(specs, paths, strict=True)):
        try:
            result = read_result(path)
        except FileNotFoundError:
            continue
        except ValueError:
            damaged.append(path)
            continue
        if _is_of(result, spec):
            (results if result.error is None else failures)[index] = result
        elif result.error is None:
            damaged.append(path)
    return EarlierRuns(results, failures, tuple(damaged))


def run_missing(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None,
    finished: Mapping[int, RunResult],
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
    runner: Runner = run_all,
) -> list[RunResult]:
    """
    Execute the runs that are not finished yet.

    :param specs: all runs
    :param paths: the result file of each run; ``None`` to write nothing
    :param finished: existing results, by their index in ``specs``
    :param workers: number of processes at the same time; default: the number of processors
    :param progress: whether to show a progress bar
    :param on_result: called with each new result as it arrives
    :param runner: executes the runs
    :return: one result per run, in the order of ``specs``
    """
    missing = [index for index in range(len(specs)) if index not in finished]
    if not missing:
        return [finished[index] for index in range(len(specs))]
    files = None if paths is None else [paths[i] for i in missing]
    new = runner([specs[i] for i in missing], files, workers, progress, on_result)
    results = {**finished, **dict(zip(missing, new, strict=True))}
    return [results[index] for index in range(len(specs))]


def _is_of(result: RunResult, spec: RunSpec) -> bool:
    # Compare settings and versions, too: after --force the folder may hold runs of an earlier comparison.
    found = (result.label, result.env_id, result.seed, result.timesteps, result.config, result.versions)
    config = json_round_trip(asdict(spec.config))
    is_complete = result.error is not None or len(result.returns) == spec.eval_episodes
    return is_complete and found == (spec.label, spec.env_id, spec.seed, spec.timesteps, config, spec.versions)
