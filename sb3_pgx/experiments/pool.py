"""Executes many runs in parallel processes and writes each result as soon as it exists."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.child_process import SECONDS_TO_WAIT, ChildProcess, ProcessDied, TimeLimitExceeded
from sb3_pgx.experiments.progress import Progress
from sb3_pgx.experiments.runs import RunProgress, RunResult, RunSpec, execute, failed

OnResult = Callable[[RunResult], None]
Runner = Callable[..., list[RunResult]]  # `run_all`, or a function with its arguments
RUN = "run"


def run_all(
    specs: Sequence[RunSpec],
    paths: Sequence[Path] | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_result: OnResult = lambda result: None,
    timeout: float | None = None,
) -> list[RunResult]:
    """
    Execute each run in a process of its own, with one thread. A run whose process dies fails alone. Ctrl-C stops the current
    runs; finished ones stay on disk.

    :param specs: the runs
    :param paths: the file to write each finished run to; ``None`` to write nothing
    :param workers: number of processes at the same time; default: the number of processors, at most the number of runs
    :param progress: whether to show the running runs, and an estimate of the remaining time
    :param on_result: called with each result as it arrives
    :param timeout: seconds after which a run is ended and counts as failed; default: none
    :return: one result per run, in the order of ``specs``
    """
    workers = min(workers or os.cpu_count() or 1, len(specs))
    files: Sequence[Path | None] = [None] * len(specs) if paths is None else paths
    results: dict[int, RunResult] = {}
    waiting, running = deque(range(len(specs))), dict[int, _Run]()
    with Progress([spec.kind for spec in specs], workers, shown=progress) as shown:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    index = waiting.popleft()
                    running[index] = _Run(specs[index], timeout)
                    shown.begin(index, specs[index].title, specs[index].kind, specs[index].timesteps)
                ready = wait([run.pipe for run in running.values() if run.pipe is not None], SECONDS_TO_WAIT)
                for index, run in list(running.items()):
                    if run.pipe in ready and (news := run.receive()) is not None:
                        shown.advance(index, news)
                    run.check_time()
                    if run.result is not None:
                        del running[index]
                        run.close()
                        shown.end(index)
                        results[index] = keep_result(run.result, files[index])
                        on_result(results[index])
                shown.refresh()
        finally:
            for run in running.values():
                run.close(kill=True)
    return [results[index] for index in range(len(specs))]


class _Run:
    """A run in a process of its own. It has a ``result`` as soon as it has ended, in whatever way."""

    def __init__(self, spec: RunSpec, timeout: float | None):
        self._spec, self._timeout = spec, timeout
        self._started = time.monotonic()
        self.result: RunResult | None = None
        self._process: ChildProcess | None = None
        try:
            self._process = ChildProcess(send_run, spec, env_ids=[spec.env_id])
        except Exception as error:  # such as a class that another process cannot import
            self.result = failed(spec, error)

    @property
    def pipe(self) -> Connection | None:
        """The connection on which messages arrive."""
        return None if self._process is None else self._process.pipe

    def receive(self) -> RunProgress | None:
        """Receive a message. Return it if it is progress, and otherwise keep the result."""
        assert self._process is not None
        try:
            message = self._process.receive()
        except ProcessDied as death:
            self.result = failed(self._spec, death, death.stack)
            return None
        if isinstance(message, RunProgress):
            return message
        self.result = message
        return None

    def check_time(self) -> None:
        """Fail if the run takes too long."""
        if self._process is None or self.result is not None:
            return
        try:
            self._process.check_time(RUN, self._started, self._timeout)
        except TimeLimitExceeded as error:
            self.result = failed(self._spec, error, error.stack)

    def close(self, kill: bool = False) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close(kill)


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
            print(f"{error}; a report of this start includes the run, but the next start repeats it", file=sys.stderr)
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


def send_run(pipe: Connection, spec: RunSpec) -> None:
    """Execute a run, and send its progress and its result. This is the work of a process."""

    def report(progress: RunProgress) -> bool:
        pipe.send(progress)
        return True

    pipe.send(execute(spec, report))
