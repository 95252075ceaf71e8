"""Processes that work for this one. The death of a process is an exception here, and affects no other process."""

import contextlib
import faulthandler
import multiprocessing as mp
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch as th

from sb3_pgx.core.worker_process import become_worker_process
from sb3_pgx.experiments.number_format import duration
from sb3_pgx.experiments.registered_environments import RegisteredEnvironments
from sb3_pgx.stages.guard import describe_end

# One thread per process, as for PyTorch; and do not reserve most of a GPU's memory per process.
JAX_SETTINGS = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
SECONDS_TO_WAIT = 0.2  # for messages
SECONDS_TO_LEAVE = 5.0
SECONDS_TO_TELL = 1.0
STACK_BYTES = 2**16
TELL_WHERE = getattr(signal, "SIGUSR1", None)  # Windows has no such signal
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


class ProcessDied(RuntimeError):
    """
    A process ended before it had done its work.

    :param sentence: how it ended, with the likely cause
    :param stack: what its threads were executing at that time; empty if that is unknown
    """

    def __init__(self, sentence: str, stack: str = ""):
        super().__init__(sentence)
        self.stack = stack


class TimeLimitExceeded(ProcessDied):
    """A process was ended because it took too long."""


class ChildProcess:
    """
    A process that works for this one.

    :param work: function at the top level of a module, which gets a connection to this process, and the arguments
    :param arguments: further arguments of ``work``
    :param fork: whether the process starts as a copy of this one, if the system can do that. It then starts at once, but it
        must not use torch: forking a process that runs torch threads can deadlock
    :param env_ids: Gymnasium's names of environments that the process makes. It knows them even if only this process has
        registered them.
    :raises Exception: an argument cannot be sent to another process
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, fork: bool = False, env_ids: Iterable[str] = ()):
        context: Any = mp.get_context("fork" if fork and "fork" in mp.get_all_start_methods() else "spawn")
        self.pipe, theirs = context.Pipe()
        self._stack, stack = context.Pipe(duplex=False)
        # No daemon, so that it may start processes, too.
        self._process = context.Process(target=_begin, args=(RegisteredEnvironments(env_ids), work, theirs, stack, *arguments))
        try:
            with warnings.catch_warnings():  # some versions of Python, and JAX, warn about every fork
                warnings.simplefilter("ignore")
                self._process.start()
        finally:
            theirs.close()
            stack.close()

    def send(self, message: Any) -> None:
        """Send a message. A dead process gets none; :meth:`receive` says so."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def receive(self) -> Any:
        """
        Wait for the next message and return it.

        :raises ProcessDied: the process has ended
        """
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(SECONDS_TO_LEAVE)
            raise ProcessDied(_cause_of_death(self._process.exitcode), self._read_stack()) from None

    def receive_in_time(self, work: str, started: float, timeout: float | None) -> Any:
        """
        Wait for the next message and return it. Arguments are those of :meth:`check_time`.

        :raises ProcessDied: the process has ended
        :raises TimeLimitExceeded: the process was ended
        """
        while True:
            self.check_time(work, started, timeout)
            if wait([self.pipe], SECONDS_TO_WAIT):
                return self.receive()

    def check_time(self, work: str, started: float, timeout: float | None) -> None:
        """
        End the process if its work takes too long.

        :param work: what it does, such as ``run``
        :param started: when it began, on the clock ``time.monotonic``
        :param timeout: seconds that it may take; ``None`` for any
        :raises TimeLimitExceeded: the process was ended
        """
        if timeout is not None and time.monotonic() - started >= timeout:
            stack = self._ask_for_stack()
            self.close(kill=True)
            raise TimeLimitExceeded(f"the {work} was ended because it took longer than {duration(timeout)}", stack)

    def close(self, kill: bool = False) -> None:
        """
        End the process, unless that has been done.

        :param kill: whether to kill it at once; otherwise it may take some seconds to leave by itself
        """
        if self.pipe.closed:
            return
        self.pipe.close()
        if kill:
            self._process.kill()
        self._process.join(SECONDS_TO_LEAVE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._stack.close()

    def _ask_for_stack(self) -> str:
        if TELL_WHERE is None or self._process.pid is None or not self._process.is_alive():
            return ""
        os.kill(self._process.pid, TELL_WHERE)
        self._process.join(SECONDS_TO_TELL)
        return self._read_stack()

    def _read_stack(self) -> str:
        return os.read(self._stack.fileno(), STACK_BYTES).decode(errors="replace") if self._stack.poll() else ""


def become_worker() -> None:
    """Prepare a process that trains while others do."""
    become_worker_process()
    use_one_thread()


def use_one_thread() -> None:
    """Let torch and JAX use one thread. Runs share the processors; more threads than processors slow all of them down."""
    th.set_num_threads(1)
    for name, value in JAX_SETTINGS.items():  # before a peer imports it
        os.environ.setdefault(name, value)


def _begin(
    environments: RegisteredEnvironments, work: Callable[..., None], pipe: Connection, stack: Connection, *arguments: Any
) -> None:
    """The main function of a process. ``environments`` are registered when they arrive."""
    if TELL_WHERE is not None:
        os.set_blocking(stack.fileno(), False)  # a crash must not wait until somebody reads about it
        faulthandler.enable(stack.fileno(), all_threads=False)
        faulthandler.register(TELL_WHERE, stack.fileno())
    become_worker()
    work(pipe, *arguments)
    faulthandler.disable()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None:
        return "its process closed the connection, but has not ended"
    if exit_code >= 0:
        cause = (
            "something in it called exit, its modules cannot be imported in a new process, or your script starts runs outside "
            'of `if __name__ == "__main__":`'
        )
    elif exit_code == -signal.SIGKILL:
        cause = "it was killed, or ran out of memory (use fewer workers)"
    elif signal.Signals(-exit_code).name in CRASHES:
        cause = "compiled code in it crashed, perhaps that of the environment's simulator"
    else:
        cause = "another process ended it"
    return f"its process {describe_end(exit_code)}: {cause}"
