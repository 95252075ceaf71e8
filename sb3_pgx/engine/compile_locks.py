"""Who may compile when: one thread at a time, except that a second one may help it."""

import contextvars
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch as th

from sb3_pgx.engine.instructions import trust_compiler

T = TypeVar("T")

# Held by a thread that compiles, and by one that has a helper until the helper is done. torch's own lock keeps out
# `torch.compile`; a helper gives it up while the C++ compiler runs.
_TURN = threading.RLock()
# Of a helper's stack, in bytes: as much as the main thread has on most systems. Some give other threads far less, and the
# compiler recurses deeply.
STACK = 16 * 2**20
HELPER = "sb3_pgx compiler"  # name of the thread


@contextmanager
def my_turn() -> Iterator[None]:
    """Open a context in which no other thread compiles our graphs, except for this one's helper."""
    with _TURN:
        yield


@contextmanager
def compiler() -> Iterator[None]:
    """Use the compiler in this thread, which has its turn or is the helper."""
    from torch._dynamo.convert_frame import compile_lock

    with compile_lock:
        trust_compiler()
        if threading.current_thread().name != HELPER:
            yield
            return
        with _unlocked_while_building(compile_lock):
            yield


@contextmanager
def _unlocked_while_building(lock: Any) -> Iterator[None]:
    """While this thread runs the C++ compiler, which takes two thirds of the time, the lock is free."""
    from torch._inductor import cpp_builder

    build, thread = cpp_builder.run_compile_cmd, threading.get_ident()

    def unlocked(*args: object, **kwargs: object) -> None:
        if threading.get_ident() != thread:
            return build(*args, **kwargs)  # type: ignore[arg-type]
        lock.release()
        try:
            return build(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            lock.acquire()

    cpp_builder.run_compile_cmd = unlocked
    try:
        yield
    finally:
        cpp_builder.run_compile_cmd = build


@contextmanager
def with_helper() -> Iterator[None]:
    """
    Open a context in which :func:`help_compiling` may be used. Its end must wait for the helper.

    The compiler puts back the state in which it found the random numbers, so nothing else may draw any meanwhile.
    """
    with _TURN, kept_random_numbers():
        yield


@contextmanager
def kept_random_numbers() -> Iterator[None]:
    """Within this context random numbers may be drawn, and after it they go on as if none had been."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with th.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)


def help_compiling(compile_graph: Callable[[], T]) -> Callable[[], T] | None:
    """
    Begin to compile in a second thread, if threads can share the compiler.

    :param compile_graph: function that compiles
    :return: function that waits for the result, and raises what ``compile_graph`` raised; ``None`` if they cannot
    """
    from torch._inductor import compile_fx, config, cpp_builder  # two threads at once may import half of it

    del compile_fx
    shared = hasattr(cpp_builder, "run_compile_cmd") and _options_are_per_thread(config)
    return in_thread(compile_graph) if shared else None


def in_thread(work: Callable[[], T]) -> Callable[[], T]:
    """
    Begin to work in a thread, which sees the caller's context variables and does not keep the process alive.

    :param work: function that runs in the thread
    :return: function that waits for the result, and raises what ``work`` raised
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    context = contextvars.copy_context()
    with _TURN:  # the size of the stack is the process's
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=lambda: context.run(run), name=HELPER, daemon=True).start()
        finally:
            threading.stack_size(before)
    return future.result


def _options_are_per_thread(config: Any) -> bool:
    """Return whether one thread does not see what another one sets."""
    before = config.size_asserts
    in_thread(lambda: setattr(config, "size_asserts", not before))()
    changed = config.size_asserts != before
    config.size_asserts = before
    return not changed
