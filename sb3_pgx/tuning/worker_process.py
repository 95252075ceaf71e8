"""Worker processes that train one trial each, and the messages they send. Only the parent process has access to the study."""

import multiprocessing as mp
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeAlias

from sb3_pgx.experiments.pool import become_worker
from sb3_pgx.experiments.runs import Interrupted
from sb3_pgx.tuning.trial_runs import SeedResult, Task, describe_error, run_task

SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True)
class StepsDone:
    """Environment steps since the last such message."""

    steps: int


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


Message: TypeAlias = StepsDone | CurvePoint | SeedDone | TaskEnded


class Worker:
    """A worker process. If it dies, its next task starts a new process."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._busy = False

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        if self._process is None:
            context = mp.get_context("spawn")  # forking a process that already runs torch threads can deadlock
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,))  # no daemon, so that it may start processes, too
            self._process.start()
            theirs.close()
        self._busy = True
        self._pipe.send(task)

    def answer(self, go_on: bool) -> None:
        """Answer a message whose sender waits for it."""
        try:
            self._pipe.send(go_on)
        except OSError:  # the worker has died; its next message says so
            pass

    def receive(self) -> Message:
        """Receive the next message of a worker. The death of its process is a message, too."""
        try:
            message: Message = self._pipe.recv()
            self._busy = not isinstance(message, TaskEnded)
            return message
        except (EOFError, OSError):
            assert self._process is not None
            self._process.join(SECONDS_TO_LEAVE)
            code = self._process.exitcode
            self.close()
            return TaskEnded(
                f"its process died (exit code {code}): it was killed, it ran out of memory (use fewer workers), or your "
                'script calls tune outside of `if __name__ == "__main__":`'
            )

    @property
    def pipe(self) -> Connection:
        """The connection on which messages arrive."""
        return self._pipe

    def close(self) -> None:
        """
        Stop the process. An idle worker exits on its own. A busy one is killed, which is safe because workers write no files.
        """
        if self._process is None:
            return
        self._pipe.close()  # an idle worker notices, releases its resources and exits
        if self._busy:
            self._process.terminate()
        self._process.join(SECONDS_TO_LEAVE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = None


def receive_messages(busy: list[Worker], seconds: float) -> Iterator[tuple[Worker, Message]]:
    """Wait for messages, at most this many seconds. Yield at most one message per worker."""
    ready = set(map(id, wait([worker.pipe for worker in busy], seconds)))
    for worker in busy:
        if id(worker.pipe) in ready:
            yield worker, worker.receive()


def _work(pipe: Connection) -> None:
    become_worker()
    serve(pipe)


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
        self._unsent_steps, self._sent_at = 0, 0.0

    def steps(self, steps: int) -> bool:
        self._unsent_steps += steps
        if time.monotonic() - self._sent_at > self.SECONDS:
            try:
                self._pipe.send(StepsDone(self._unsent_steps))
            except OSError:
                return False
            self._unsent_steps, self._sent_at = 0, time.monotonic()
        return True

    def point(self, steps: int, mean_return: float) -> bool:
        return self._ask(CurvePoint(steps, mean_return))

    def seed(self, finished: SeedResult) -> bool:
        return self._ask(SeedDone(finished))

    def _ask(self, message: Message) -> bool:
        self._pipe.send(message)
        return self._pipe.recv()
