"""Worker processes that train one trial each, and the messages they send. Only the parent process has access to the study."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TypeAlias

from sb3_pgx.experiments.child_process import ChildProcess, ProcessDied, TimeLimitExceeded
from sb3_pgx.experiments.runs import Interrupted, RunProgress
from sb3_pgx.tuning.trial_runs import SeedResult, Task, describe_error, run_task


@dataclass(frozen=True)
class CurvePoint:
    """Mean return of all seeds at a number of environment steps. The worker waits for an answer."""

    steps: int
    mean_return: float


@dataclass(frozen=True)
class SeedDone:
    """Result of a finished seed. The worker waits for an answer."""

    finished: SeedResult


@dataclass(frozen=True)
class TaskEnded:
    """The worker is idle again. ``reason`` says why the task failed; ``None`` if it was completed or stopped."""

    reason: str | None = None
    details: str = ""


TRIAL = "trial"
Message: TypeAlias = RunProgress | CurvePoint | SeedDone | TaskEnded


class Worker:
    """A worker process. If it dies, its next task starts a new process."""

    def __init__(self) -> None:
        self._process: ChildProcess | None = None
        self._busy = False
        self._started = 0.0
        self._timeout: float | None = None

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        if self._process is None:
            self._process = ChildProcess(serve, env_ids={spec.env_id for spec in task.specs})
        self._busy, self._started, self._timeout = True, time.monotonic(), task.timeout
        self._process.pipe.send(task)

    def answer(self, go_on: bool) -> None:
        """Answer a message whose sender waits for it."""
        if self._process is not None:
            self._process.send(go_on)

    def receive(self) -> Message:
        """Receive the next message of a worker. The death of its process is a message, too."""
        assert self._process is not None
        try:
            message: Message = self._process.receive()
            self._busy = not isinstance(message, TaskEnded)
            return message
        except ProcessDied as death:
            self.close()
            return TaskEnded(str(death), death.stack)

    def check_time(self) -> TaskEnded | None:
        """End the process if its task takes too long, and return that as a message; otherwise return ``None``."""
        if self._process is None or not self._busy:
            return None
        try:
            self._process.check_time(TRIAL, self._started, self._timeout)
        except TimeLimitExceeded as error:
            self._process = None
            return TaskEnded(str(error), error.stack)
        return None

    @property
    def pipe(self) -> Connection:
        """The connection on which messages arrive."""
        assert self._process is not None
        return self._process.pipe

    def close(self) -> None:
        """
        Stop the process. An idle worker exits on its own and releases its resources. A busy one is killed, which is safe
        because workers write no files.
        """
        if self._process is not None:
            self._process.close(kill=self._busy)
            self._process = None


def receive_messages(busy: list[Worker], seconds: float) -> Iterator[tuple[Worker, Message]]:
    """
    Wait for messages, at most this many seconds. Yield one of each worker that has sent any. End tasks that take too long,
    which is a message, too.
    """
    ready = set(map(id, wait([worker.pipe for worker in busy], seconds)))
    for worker in busy:
        if id(worker.pipe) in ready:
            yield worker, worker.receive()
        if (end := worker.check_time()) is not None:
            yield worker, end


def serve(pipe: Connection) -> None:
    """Execute one task after the other, until the other end of the pipe is closed."""
    listener = _PipeListener(pipe)
    try:
        while True:
            task: Task = pipe.recv()
            try:
                run_task(task, listener)
                end = TaskEnded()
            except Interrupted:
                return
            except Exception as error:
                end = TaskEnded(*describe_error(error))
            pipe.send(end)
    except (EOFError, OSError):
        return  # the parent process has ended


class _PipeListener:
    SECONDS = 1.0

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._unsent, self._sent_at = RunProgress(), 0.0

    def progress(self, progress: RunProgress) -> bool:
        self._unsent += progress
        if time.monotonic() - self._sent_at > self.SECONDS or progress.activity:
            try:
                self._pipe.send(self._unsent)
            except OSError:
                return False
            self._unsent, self._sent_at = RunProgress(), time.monotonic()
        return True

    def point(self, steps: int, mean_return: float) -> bool:
        return self._ask(CurvePoint(steps, mean_return))

    def seed(self, finished: SeedResult) -> bool:
        return self._ask(SeedDone(finished))

    def _ask(self, message: Message) -> bool:
        self._pipe.send(message)
        return self._pipe.recv()
