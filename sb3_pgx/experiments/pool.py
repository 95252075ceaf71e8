"""Many runs in parallel processes, each result on disk as soon as it exists."""

import json
import multiprocessing as mp
import os
import signal
import sys
import threading
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
from sb3_pgx.experiments.runs import RunResult, RunSpec, execute, failed

# One thread, as PyTorch; and not most of a GPU's memory for each process.
JAX_SETTINGS = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

OnResult = Callable[[RunResult], None]
Job = tuple[RunSpec, Path | None]


def run_all(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
) -> list[RunResult]:
    """
    Executes the runs in processes of one thread each. Ctrl-C stops the runs under way; finished ones stay on disk.

    :param specs: the runs
    :param paths: the file that each run is written to when it is finished; None to write nothing
    :param workers: processes at a time; default as many as there are processors, and no more than runs
    :param progress: whether to show a progress bar over the environment steps of all runs (in a terminal only)
    :param on_result: called with each result as it arrives
    :return: one result for each run, in the order of ``specs``
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


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all. What JSON has no word for, such as a class, is written as its text."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def json_round_trip(content: Any) -> Any:
    """What reading gives of what :func:`write_json` wrote."""
    return json.loads(json.dumps(content, default=str))


def write_result(result: RunResult, path: Path) -> None:
    """Writes a run with what follows from it, so that the file can be read without this package."""
    derived = {} if result.error else {"mean_return": result.mean_return, "frames_per_second": result.frames_per_second}
    write_json(path, {**asdict(result), **derived})


def read_result(path: Path) -> RunResult:
    """
    What :func:`write_result` wrote; what JSON has no word for stays text.

    :raises ValueError: the file is not whole
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return RunResult(**{field.name: content[field.name] for field in fields(RunResult) if field.name in content})
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not the file of a run, or only half of it") from None


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
            "a process of the comparison died; it was killed, or ran out of memory (use fewer workers), or the script that "
            'called compare does so outside `if __name__ == "__main__":`'
        )
    return _write(failed(spec, error), path)


_counter: Synchronized
_stop: Event


def _initialize(counter: Synchronized, stop: Event) -> None:
    """Prepares a worker process; the two globals exist in worker processes only."""
    global _counter, _stop
    _counter, _stop = counter, stop
    become_worker()


def become_worker() -> None:
    """Prepares a process that trains beside others."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C as well, and tells the workers
    th.set_num_threads(1)  # runs share the processors; more threads than processors slow all of them down
    for name, value in JAX_SETTINGS.items():  # before a peer imports it
        os.environ.setdefault(name, value)


def _end_with_parent() -> None:
    """Where the process that started it is killed, a run ends as well; else it would go on, and nothing would wait for it."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute_and_write(spec: RunSpec, path: Path | None) -> RunResult:
    return _write(execute(spec, _report), path)


def _write(result: RunResult, path: Path | None) -> RunResult:
    """A result that cannot be written is still in the comparison's report."""
    if path is not None:
        try:
            write_result(result, path)
        except OSError as error:
            print(f"{error}; the report will have this run, but another start would train it again", file=sys.stderr)
    return result


def _report(steps: int) -> bool:
    with _counter.get_lock():
        _counter.value += steps
    return not _stop.is_set()
