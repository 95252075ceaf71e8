"""
Executes runs as tasks of a Ray cluster. Ray decides where each run trains, and repeats runs whose process or machine died.

Ray is imported only when a cluster is used.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.experiments.child_process import SECONDS_TO_WAIT, ChildProcess, ProcessDied, TimeLimitExceeded
from sb3_pgx.experiments.pool import RUN, OnResult, Runner, keep_result, send_run
from sb3_pgx.experiments.progress import Progress
from sb3_pgx.experiments.runs import RunProgress, RunResult, RunSpec, failed

ATTEMPTS = 3  # starts of a run before it counts as failed
SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_TO_ANSWER = 5.0
TOKEN_REMEDY = "; if it asks for a token, as `ray start` does once one was made, set RAY_AUTH_MODE=token"
KNOWN_TO_RAY = ("auto", "local")  # addresses that need no host and port

News = tuple[int, RunProgress | None]  # index of a run, and what it has done; None: it starts


class RunFailed(Exception):
    """A run raised an error; ``result`` is its result. As an exception it tells Ray to try the run again."""

    def __init__(self, result: RunResult):
        super().__init__(result)
        self.result = result


class UnsuitableCluster(ValueError):
    """A machine of the cluster cannot execute the runs as this machine would."""


@contextlib.contextmanager
def ray_runner(address: str, repeat_failed: bool = True, timeout: float | None = None) -> Iterator[Runner]:
    """
    Connect to a Ray cluster, and yield a runner that executes each run as a task with one processor, in a process of its own
    with one torch thread.

    The runner's arguments are those of :func:`~sb3_pgx.experiments.pool.run_all`; Ray decides how many runs train at once.
    Results are written by this process, so the machines need no shared folder. A run whose process or machine dies is started
    up to :data:`ATTEMPTS` times and then counts as failed; other runs are not affected. The runner raises
    :class:`UnsuitableCluster` if a machine has other versions of the packages that affect results.

    :param address: ``host:port`` of the cluster's head, ``auto`` for the cluster that this machine belongs to, or ``local`` to
        start one on this machine
    :param repeat_failed: whether a run that raises an error starts again, too
    :param timeout: seconds after which a run is ended and counts as failed, without another start; default: none
    :raises ImportError: Ray is not installed
    :raises ValueError: the address has another form
    :raises OSError: the cluster cannot be reached
    """
    require_extra("runs on a cluster", ("ray",), "cluster")
    _check_answers(address)
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types, for example if the cluster has another version of Python
        remedy = TOKEN_REMEDY if isinstance(error, ConnectionError) else ""  # its port has answered above
        raise ConnectionError(f"the Ray cluster {address} cannot be used: {one_line(error)}{remedy}") from None
    try:
        yield _Tasks(ray, repeat_failed, timeout)
    finally:
        ray.shutdown()  # ends the tasks that are left


def _check_answers(address: str) -> None:
    """Connect once, because Ray itself would wait for minutes and print pages."""
    if address in KNOWN_TO_RAY:
        return
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"Ray address {address}: write host:port, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConnectionError(f"the Ray cluster {address} cannot be reached: {reason}; is its head running?") from None


class _Tasks:
    """The runner of a connected cluster."""

    def __init__(self, ray: Any, repeat_failed: bool, timeout: float | None):
        self._ray, self._timeout = ray, timeout
        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0)
        repeated = [ProcessDied, RunFailed] if repeat_failed else [ProcessDied]
        self._task = ray.remote(_execute).options(num_cpus=1, max_retries=ATTEMPTS - 1, retry_exceptions=repeated)

    def __call__(
        self,
        specs: Sequence[RunSpec],
        paths: Sequence[Path] | None = None,
        workers: int | None = None,
        progress: bool = True,
        on_result: OnResult = lambda result: None,
    ) -> list[RunResult]:
        files = [None] * len(specs) if paths is None else paths
        mailbox = self._mailbox.remote()
        tasks = {self._task.remote(spec, spec.versions, self._timeout, i, mailbox): i for i, spec in enumerate(specs)}
        results: dict[int, RunResult] = {}
        waiting, asked = list(tasks), mailbox.take.remote()
        with Progress([spec.kind for spec in specs], None, shown=progress) as shown:
            while waiting:
                done, waiting = self._ray.wait(waiting, timeout=SECONDS_TO_WAIT)
                if self._ray.wait([asked], timeout=0)[0]:
                    news, asked = self._news(asked), mailbox.take.remote()
                    _show([(i, progress) for i, progress in news if i not in results], specs, shown)
                for task in done:
                    index = tasks[task]
                    results[index] = keep_result(self._outcome(task, specs[index]), files[index])
                    on_result(results[index])
                    shown.end(index)
                shown.refresh()
        return [results[index] for index in range(len(specs))]

    def _news(self, asked: Any) -> list[News]:
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError:  # the mailbox died with its machine; runs go on without a line of their own
            return []

    def _outcome(self, task: Any, spec: RunSpec) -> RunResult:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # the task raised, on the machine where it ran
            if isinstance(error.cause, RunFailed):
                return error.cause.result
            if isinstance(error.cause, ProcessDied):
                return failed(spec, error.cause, error.cause.stack)
            if isinstance(error.cause, UnsuitableCluster):
                raise error.cause from None
            raise UnsuitableCluster(
                f"a machine of the cluster cannot execute runs: {one_line(error.cause)}; install the same packages everywhere"
            ) from None
        except self._ray.exceptions.RayError as error:
            death = f"its machine or Ray's process there died {ATTEMPTS} times, or ran out of memory: {one_line(error)}"
            return failed(spec, RuntimeError(death))


class _Mailbox:
    """Collects the progress of the runs on some machine of the cluster, until the runner takes it. It is an actor of Ray."""

    def __init__(self) -> None:
        self._news: list[News] = []

    def put(self, index: int, progress: RunProgress | None) -> None:
        """Add what a run has done; ``None``: it starts."""
        self._news.append((index, progress))

    def take(self) -> list[News]:
        """Return what has come since the last call."""
        news, self._news = self._news, []
        return news


def _show(news: Sequence[News], specs: Sequence[RunSpec], shown: Progress) -> None:
    for index, progress in news:
        if progress is None:  # again, if Ray repeats a run
            shown.begin(index, specs[index].title, specs[index].kind, specs[index].timesteps)
        else:
            shown.advance(index, progress)


def _execute(spec: RunSpec, expected: dict[str, str], timeout: float | None, index: int, mailbox: Any) -> RunResult:
    """
    Execute a run on a machine of the cluster.

    :param spec: the run
    :param expected: versions of the packages that affect it
    :param timeout: seconds after which it is ended; ``None`` for any
    :param index: number of the run, from 0
    :param mailbox: gets its progress
    """
    if spec.versions != expected:
        here, there = (set(versions.items()) for versions in (spec.versions, expected))
        found, wanted = (", ".join(map(" ".join, sorted(side))) or "none" for side in (here - there, there - here))
        raise UnsuitableCluster(
            f"the machine {socket.gethostname()} of the cluster has {found} instead of {wanted}; install the same versions"
        )
    mailbox.put.remote(index, None)
    try:
        result = _in_child_process(spec, timeout, lambda progress: mailbox.put.remote(index, progress))
    except TimeLimitExceeded as error:  # which would take as long again
        return failed(spec, error, error.stack)
    if result.error is not None:
        raise RunFailed(result)
    return result


def _in_child_process(spec: RunSpec, timeout: float | None, report: Callable[[RunProgress], Any]) -> RunResult:
    """
    Execute a run in a process of its own.

    :param spec: the run
    :param timeout: seconds after which it is ended; ``None`` for any
    :param report: gets what the run has done, once per :data:`SECONDS_BETWEEN_REPORTS`, and when it compiles or has its steps
    :raises ProcessDied: the process has ended
    :raises TimeLimitExceeded: the run took longer than ``timeout`` seconds
    """
    started, process = time.monotonic(), ChildProcess(send_run, spec)
    unreported, reported, steps = RunProgress(), started, 0
    try:
        while isinstance(message := process.receive_in_time(RUN, started, timeout), RunProgress):
            unreported, steps = unreported + message, steps + message.steps
            is_due = time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS
            if is_due or message.activity or steps >= spec.timesteps:
                report(unreported)
                unreported, reported = RunProgress(), time.monotonic()
        return message
    finally:
        process.close(kill=True)
