"""Processes that train one trial each, and the conversation with them; only the process that started them knows the study."""

import multiprocessing as mp
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeAlias

from sb3_pgx.experiments.pool import become_worker
from sb3_pgx.experiments.runs import Interrupted
from sb3_pgx.tuning.trial_runs import SeedResult, Task, describe_error, work

SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True)
class StepsDone:
    """Environment steps that were done since the last such message."""

    steps: int


@dataclass(frozen=True)
class CurvePoint:
    """The mean return of the seeds at a number of environment steps. The worker waits for an answer."""

    steps: int
    mean_return: float


@dataclass(frozen=True)
class SeedDone:
    """A seed is finished. The worker waits for an answer."""

    finished: SeedResult


@dataclass(frozen=True)
class TaskEnded:
    """The worker is idle again; it stopped because it was told to, or has done all, or failed for a reason."""

    reason: str | None = None
    details: str = ""


Message: TypeAlias = StepsDone | CurvePoint | SeedDone | TaskEnded


class Worker:
    """One process. A worker that died is replaced by a new process for its next task."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._busy = False

    def submit(self, task: Task) -> None:
        """Gives an idle worker something to do."""
        if self._process is None:
            context = mp.get_context("spawn")  # forking a process that already runs torch threads can deadlock
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self._busy = True
        self._pipe.send(task)

    def answer(self, go_on: bool) -> None:
        """To a message that waits for it."""
        try:
            self._pipe.send(go_on)
        except OSError:  # it died meanwhile; the next message says so
            pass

    def receive(self) -> Message:
        """The next message of a worker that has one; the death of its process is one."""
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
                f"its process died (exit code {code}): it was killed, or ran out of memory (use fewer workers), or the script "
                'that called tune does so outside `if __name__ == "__main__":`'
            )

    @property
    def pipe(self) -> Connection:
        """To wait for."""
        return self._pipe

    def close(self) -> None:
        """
        Ends the process: an idle one by itself; a busy one at once, whatever it does, for it writes nothing that could be left
        half written.
        """
        if self._process is None:
            return
        self._pipe.close()  # an idle one sees that, and gives back what it holds of the system
        if self._busy:
            self._process.terminate()
        self._process.join(SECONDS_TO_LEAVE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = None


def messages(busy: list[Worker], seconds: float) -> Iterator[tuple[Worker, Message]]:
    """What the workers said, one message each at most, as soon as there is one, or after this many seconds."""
    ready = set(map(id, wait([worker.pipe for worker in busy], seconds)))
    for worker in busy:
        if id(worker.pipe) in ready:
            yield worker, worker.receive()


def _serve(pipe: Connection) -> None:
    """A worker process: one task after the other, until the other end of the pipe closes."""
    become_worker()
    listener = _PipeListener(pipe)
    try:
        while True:
            task: Task = pipe.recv()
            try:
                work(task, listener)
                end = TaskEnded()
            except Interrupted:
                return
            except Exception as error:
                end = TaskEnded(*describe_error(error))
            pipe.send(end)
    except (EOFError, OSError):
        return  # the other process has gone, and took the study with it


class _PipeListener:
    SECONDS = 1.0

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._unsaid, self._said_at = 0, 0.0

    def steps(self, steps: int) -> bool:
        self._unsaid += steps
        if time.monotonic() - self._said_at > self.SECONDS:
            try:
                self._pipe.send(StepsDone(self._unsaid))
            except OSError:
                return False
            self._unsaid, self._said_at = 0, time.monotonic()
        return True

    def point(self, steps: int, mean_return: float) -> bool:
        return self._ask(CurvePoint(steps, mean_return))

    def seed(self, finished: SeedResult) -> bool:
        return self._ask(SeedDone(finished))

    def _ask(self, message: Message) -> bool:
        self._pipe.send(message)
        return self._pipe.recv()
