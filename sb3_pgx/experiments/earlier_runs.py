"""Runs that a folder holds already are not trained again; those that failed, or whose files are not whole, are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sb3_pgx.experiments.pool import OnResult, json_round_trip, read_result, run_all
from sb3_pgx.experiments.runs import RunResult, RunSpec, versions


@dataclass(frozen=True)
class EarlierRuns:
    """
    What earlier, perhaps interrupted, work left.

    :param results: finished runs, by their place among those asked for
    :param damaged: files that are there and are not, or not wholly, those runs
    """

    results: dict[int, RunResult]
    damaged: tuple[Path, ...]


def find_earlier_runs(specs: Sequence[RunSpec], paths: Sequence[Path]) -> EarlierRuns:
    """
    :param specs: the runs to look for
    :param paths: where each of them is kept
    """
    results: dict[int, RunResult] = {}
    damaged = []
    for index, (spec, path) in enumerate(zip(specs, paths, strict=True)):
        if not path.is_file():
            continue
        try:
            result = read_result(path)
        except ValueError:
            damaged.append(path)
            continue
        if result.error is None and _is_of(result, spec):
            results[index] = result
        elif result.error is None:
            damaged.append(path)
    return EarlierRuns(results, tuple(damaged))


def run_missing(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None,
    finished: Mapping[int, RunResult],
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
) -> list[RunResult]:
    """
    Executes the runs that are not finished yet.

    :param specs: all runs
    :param paths: the file of each; None to write nothing
    :param finished: results that are there, by their place in ``specs``
    :param workers: processes at a time
    :param progress: whether to show a progress bar
    :param on_result: called with each new result as it arrives
    :return: one result for each run, in the order of ``specs``
    """
    missing = [index for index in range(len(specs)) if index not in finished]
    if not missing:
        return [finished[index] for index in range(len(specs))]
    files = None if paths is None else [paths[i] for i in missing]
    new = run_all([specs[i] for i in missing], files, workers, progress, on_result)
    results = {**finished, **dict(zip(missing, new, strict=True))}
    return [results[index] for index in range(len(specs))]


def _is_of(result: RunResult, spec: RunSpec) -> bool:
    # Its settings and versions, too: after --force the folder may hold runs of what was compared there before.
    found = (result.label, result.env_id, result.seed, result.timesteps, len(result.returns), result.config, result.versions)
    config = json_round_trip(asdict(spec.config))
    return found == (spec.label, spec.env_id, spec.seed, spec.timesteps, spec.eval_episodes, config, versions(spec.env_id))
