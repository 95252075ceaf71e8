"""The processes of A3C's workers other than the first: they start, train, report errors, and end with the training."""

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import cloudpickle
from torch import multiprocessing

from sb3_pgx.algorithms.a3c.shared_memory import SharedMemory
from sb3_pgx.core.worker_process import become_worker_process
from sb3_pgx.stages.guard import describe_end

READY, DONE = "ready", "done"  # messages of a worker that can begin, and of one whose training has ended
BEFORE = "before it began"
SECONDS_TO_STOP = 10.0  # in which a worker finishes its rollout; then its process is ended

Train = Callable[[SharedMemory, int], None]
Prepare = Callable[[int], Train]  # from the number of a worker to its training


class Failure(NamedTuple):
    """An error in a worker."""

    error: str
    traceback: str


class RemoteError(Exception):
    """The traceback of an error in a worker's process, as the cause of the error in this one."""

    def __init__(self, text: str):
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


class WorkerProcesses:
    """
    The processes of all workers but the first, which is in this process. Use it as a context.

    :param prepare: pickled by cloudpickle; called in the process of each worker with the worker's number
    :param shared: what all workers share
    """

    def __init__(self, prepare: bytes, shared: SharedMemory):
        self.shared = shared
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}  # by the worker's number
        self._done: set[int] = set()  # workers whose training has ended
        context = multiprocessing.get_context("spawn")  # forking a process that already runs torch threads can deadlock
        try:
            for rank in range(1, len(shared.steps)):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(prepare, shared, rank, theirs), name=f"A3C worker {rank}")
                process.start()
                theirs.close()
                self._processes[rank] = process, ours
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "WorkerProcesses":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        failed = self.stop()
        if failed and kind is None:
            raise failed[0]

    def begin(self) -> None:
        """
        Wait until all workers are ready, and let them begin.

        :raises RuntimeError: a worker has failed
        """
        for rank, (_, pipe) in self._processes.items():
            message = _received(pipe)
            if message != READY:
                raise self._error(rank, message, BEFORE)
        for _, pipe in self._processes.values():
            with suppress(OSError):  # a worker that has died since is found by `check`
                pipe.send(True)

    def check(self) -> None:
        """:raises RuntimeError: a worker has failed"""
        for rank in self._processes:
            if (error := self._failure(rank)) is not None:
                raise error

    def stop(self) -> list[RuntimeError]:
        """Stop all workers, and wait until their processes have ended. Return the errors of workers that have failed."""
        self.shared.stop[0] = True
        for _, pipe in self._processes.values():
            with suppress(OSError):
                pipe.send(False)  # to a worker that waits for the beginning
        errors = []
        for rank, (process, pipe) in self._processes.items():
            process.join(SECONDS_TO_STOP)
            if process.exitcode is None:
                _end(process)
            elif (error := self._failure(rank)) is not None:
                errors.append(error)
            pipe.close()
            process.close()
        self._processes.clear()
        return errors

    def _failure(self, rank: int) -> RuntimeError | None:
        """Return the error of a worker whose process has ended before its training; ``None`` if there is none."""
        process, pipe = self._processes[rank]
        if process.exitcode is None or rank in self._done:
            return None
        message = _received(pipe)
        if message != DONE:
            return self._error(rank, message)
        self._done.add(rank)
        return None

    def _error(self, rank: int, message: Any, when: str | None = None) -> RuntimeError:
        when = when or f"after {int(self.shared.steps.sum())} steps of all workers"
        kept = "The model keeps what had been learned by then."
        if isinstance(message, Failure):
            error = RuntimeError(f"worker {rank} of A3C failed {when}: {message.error}. {kept}")
            error.__cause__ = RemoteError(message.traceback)
            return error
        process, _ = self._processes[rank]
        process.join(SECONDS_TO_STOP)
        killed = process.exitcode is None or process.exitcode < 0
        causes = "it was killed, or ran out of memory" if killed else "something in it, such as its environment, ended it"
        if when == BEFORE:
            causes += ', or your script calls learn outside of `if __name__ == "__main__":`'
        return RuntimeError(
            f"worker {rank} of A3C is gone {when}: its process {describe_end(process.exitcode or 0)} ({causes}). {kept}"
        )


def _received(pipe: Connection) -> Any:
    """Wait for a message of a worker and return it; ``None`` if its process has ended without one."""
    with suppress(EOFError, OSError):
        return pipe.recv()
    return None


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join(1.0)
    process.kill()
    process.join()


def _work(prepare: bytes, shared: SharedMemory, rank: int, pipe: Connection) -> None:
    """Train as a worker; the main function of its process."""
    become_worker_process()
    try:
        prepared: Prepare = cloudpickle.loads(prepare)
        train = prepared(rank)
        pipe.send(READY)
        if pipe.recv():
            train(shared, rank)
        pipe.send(DONE)
    except BaseException as error:
        with suppress(OSError):
            # Short enough for the pipe's buffer: nobody reads it before this process has ended.
            pipe.send(Failure(f"{type(error).__name__}: {error}"[:2_000], traceback.format_exc()[-20_000:]))
        sys.exit(1)
