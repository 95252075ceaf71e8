"""Lets several runs take turns within one process, each with its own thread and its own random state."""

import random
from collections.abc import Callable
from threading import Semaphore, Thread
from typing import Any, Generic, TypeVar

import numpy as np
import torch as th

from sb3_pgx.experiments.runs import Interrupted

T = TypeVar("T")
Pause = Callable[[Any], None]


class ThreadCoroutine(Generic[T]):
    """
    A function that can be paused and resumed like a coroutine. It needs neither ``await`` nor ``yield``, so it can pause
    inside of a callback of ``learn()``.

    The caller of :meth:`resume` waits until the function pauses or returns, so only one of them runs at a time. The random
    states of Python, NumPy and PyTorch are separate: a function draws the same numbers whatever runs in between.

    :param function: called with ``pause``, which passes a value to the caller of :meth:`resume` and returns at the next
        :meth:`resume`
    """

    def __init__(self, function: Callable[[Pause], T]):
        self.value: Any = None  # passed at the last pause
        self.result: T | None = None
        self.finished = False  # whether the function has returned
        self._error: BaseException | None = None
        self._stopped = False
        self._go, self._paused = Semaphore(0), Semaphore(0)
        self._random = _random_state()
        self._thread = Thread(target=self._run, args=(function,), daemon=True)

    def resume(self) -> bool:
        """
        Run to the next pause.

        :return: True at a pause, False if the function has returned
        :raises BaseException: the function raised it
        """
        outside = _random_state()
        _set_random_state(self._random)
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        try:
            self._paused.acquire()
        finally:
            self._random = _random_state()
            _set_random_state(outside)
        if self._error is not None:
            raise self._error
        return not self.finished

    def stop(self) -> None:
        """End a paused function by raising :class:`Interrupted` at its pause."""
        if self._thread.is_alive():
            self._stopped = True
            self._go.release()
            self._thread.join()

    def _run(self, function: Callable[[Pause], T]) -> None:
        try:
            self.result = function(self._pause)
            self.finished = True
        except BaseException as error:
            self._error = error
        finally:
            self._paused.release()

    def _pause(self, value: Any) -> None:
        self.value = value
        self._paused.release()
        self._go.acquire()
        if self._stopped:
            raise Interrupted


def _random_state() -> tuple[Any, ...]:
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), th.get_rng_state(), cuda


def _set_random_state(state: tuple[Any, ...]) -> None:
    python, numpy, torch, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    th.set_rng_state(torch)
    if cuda is not None:
        th.cuda.set_rng_state_all(cuda)
