"""Work in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

# Of a thread's stack, in bytes: as much as the main thread has on most systems. Some give other threads far less, and the
# compiler recurses deeply.
STACK = 16 * 2**20


def in_thread(work: Callable[[], T]) -> Callable[[], T]:
    """
    Begin to work in a thread, which does not keep the process alive.

    :param work: function that runs in the thread
    :return: function that waits for the result, and raises what ``work`` raised
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    before = threading.stack_size(STACK)
    try:
        threading.Thread(target=run, daemon=True).start()
    finally:
        threading.stack_size(before)
    return future.result
