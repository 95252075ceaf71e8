"""Executes many runs in parallel processes and writes each result as soon as it exists."""

import json
import multiprocessing as mp
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch as th

from sb3_pgx.core.files import write_text
from sb3_pgx.core.worker_process import become_worker_process
from sb3_pgx.experiments.runs import RunResult, RunSpec, execute, failed

# One thread per process, as for PyTorch; and do not reserve most of a GPU's memory per process.
JAX_SETTINGS = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

OnResult = Callable[[RunResult], None]
Runner = Callable[..., list[RunResult]]  # `run_all`, or a function with its arguments
Job = tuple[RunSpec, Path | None]


def run_all(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
) -> list[RunResult]:
    """
    Execute the runs in processes of one thread each. Ctrl-C stops the current runs; finished ones stay on disk.

    :param specs: the runs
    :param paths: the file to write each finished run to; ``None`` to write nothing
    :param workers: number of processes at the same time; default: the number of processors, at most the number of runs
    :param progress: whether to show a progress bar over the environment steps of all runs (in a terminal only)
    :param on_result: called with each result as it arrives
    :return: one result per run, in the order of ``specs``
    """
    context = mp.get_context("spawn")  # forking a process that already runs torch threads can deadlock
    counter, stop = context.Value("q", 0), context.Event()
    workers = min(workers or os.cpu_count() or 1, len(specs))
    files: Sequence[Path | None] = [None] * len(specs) if paths is None else paths
    jobs = list(zip(specs, files, strict=True))
    with ProcessPoolExecutor(workers, context, _initialize, (counter, stop)) as pool:
        futures = {pool.submit(_execute_and_write, *job): job for job in jobs}
        try:
            results = _collect(futures, counter, progress, on_result)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [results[future] for future in futures]


def run_here(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
) -> list[RunResult]:
    """Execute the runs one after the other in this process, for instance in a debugger. Arguments as :func:`run_all`."""
    results = []
    for spec, path in zip(specs, [None] * len(specs) if paths is None else paths, strict=True):
        results.append(keep_result(execute(spec), path))
        on_result(results[-1])
    return results


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all. A value that JSON cannot represent, such as a class, is written as its ``str``."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def json_round_trip(content: Any) -> Any:
    """Return the content as it reads back after :func:`write_json`."""
    return json.loads(json.dumps(content, default=str))


def write_result(result: RunResult, path: Path) -> None:
    """Write a run and the numbers derived from it, so that the file can be used without this package."""
    derived = {} if result.error else {"mean_return": result.mean_return, "frames_per_second": result.frames_per_second}
    write_json(path, {**asdict(result), **derived})


def keep_result(result: RunResult, path: Path | None) -> RunResult:
    """
    Write a result and return it. If it cannot be written, print why: it is still in the comparison's report.

    :param result: the result of a run
    :param path: file to write; ``None`` to write nothing
    """
    if path is not None:
        try:
            write_result(result, path)
        except OSError as error:
            print(f"{error}; the report will include this run, but the next start would repeat it", file=sys.stderr)
    return result


def read_result(path: Path) -> RunResult:
    """
    Read a file of :func:`write_result`. Values that JSON cannot represent stay texts.

    :raises ValueError: the file is incomplete, or not the file of a run
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return RunResult(**{field.name: content[field.name] for field in fields(RunResult) if field.name in content})
    except (ValueError, TypeError):
        raise ValueError(f"{path} is incomplete, or not the file of a run") from None


def _collect(
    futures: dict[Future[RunResult], Job], counter: Synchronized, progress: bool, on_result: OnResult
) -> dict[Future[RunResult], RunResult]:
    from tqdm import tqdm

    results: dict[Future[RunResult], RunResult] = {}
    pending = set(futures)
    total = sum(spec.timesteps for spec, _ in futures.values())
    with tqdm(total=total, unit=" steps", unit_scale=True, disable=None if progress else True) as bar:
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                results[future] = _outcome(future, *futures[future])
                on_result(results[future])
            bar.n = min(counter.value, total)
            bar.set_postfix_str(f"{len(results)}/{len(futures)} runs", refresh=True)
    return results


def _outcome(future: Future[RunResult], spec: RunSpec, path: Path | None) -> RunResult:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        error = RuntimeError(
            "a process of the comparison died: it was killed, it ran out of memory (use fewer workers), or your script calls "
            'compare outside of `if __name__ == "__main__":`'
        )
    return keep_result(failed(spec, error), path)


_counter: Synchronized
_stop: Event


def _initialize(counter: Synchronized, stop: Event) -> None:
    """Prepare a worker process. The two globals exist in worker processes only."""
    global _counter, _stop
    _counter, _stop = counter, stop
    become_worker()


def become_worker() -> None:
    """Prepare a process that trains while others do."""
    become_worker_process()
    use_one_thread()


def use_one_thread() -> None:
    """Let torch and JAX use one thread. Runs share the processors; more threads than processors slow all of them down."""
    th.set_num_threads(1)
    for name, value in JAX_SETTINGS.items():  # before a peer imports it
        os.environ.setdefault(name, value)


def _execute_and_write(spec: RunSpec, path: Path | None) -> RunResult:
    return keep_result(execute(spec, _report), path)


def _report(steps: int) -> bool:
    with _counter.get_lock():
        _counter.value += steps
    return not _stop.is_set()
