"""Compile the functions of one algorithm, say so in its log, and count the seconds."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from torch import Tensor

from sb3_pgx.engine.compile_locks import kept_random_numbers
from sb3_pgx.engine.compiler import Compiled, begin_compiling
from sb3_pgx.engine.trace import Function, NotCompilable


class CompileLog:
    """
    What one algorithm compiles.

    :param tell: function that logs a sentence
    """

    def __init__(self, tell: Callable[[str], None] = lambda sentence: None):
        self._tell = tell
        self._uncompiled: dict[str, str] = {}  # the reason that was logged last, by what runs uncompiled
        self._has_waited = False
        self.seconds = 0.0  # that compiling and loading took in this call of `learn`

    def compile(
        self, what: str, function: Callable[[], Function], examples: Callable[[], Sequence[Tensor]]
    ) -> Compiled | None:
        """
        Compile a function, or load it from the graphs that are kept between runs.

        :param what: name of the function in the log
        :param function: makes the function; it may raise :class:`~sb3_pgx.engine.trace.NotCompilable`
        :param examples: makes its arguments, see :func:`~sb3_pgx.engine.compiler.compile_function`
        :return: the compiled function, or ``None`` if it cannot be compiled
        """
        return self.begin(what, function, examples, ahead=False)()

    def begin(
        self, what: str, function: Callable[[], Function], examples: Callable[[], Sequence[Tensor]], ahead: bool
    ) -> Callable[[], Compiled | None]:
        """
        Begin to compile a function. Arguments are those of :meth:`compile`.

        :param ahead: whether to compile in a second thread, see :func:`~sb3_pgx.engine.compiler.begin_compiling`
        :return: function that returns the result of :meth:`compile`
        """
        with self._working():
            try:
                begun = [
                    begin_compiling(
                        function(), examples(), lambda seconds: self._announce(what, seconds), self._announce_wait, ahead
                    )
                ]
            except NotCompilable as reason:
                self._tell(f"{what} runs uncompiled: {reason}")
                return lambda: None

        @cache
        def result() -> Compiled | None:
            with self._working():
                try:
                    compiled = begun[0]()
                    begun.clear()  # lets go of the examples
                    self._tell(f"{what} is compiled")
                    return compiled
                except NotCompilable as reason:
                    self._tell(f"{what} runs uncompiled: {reason}")
                    return None

        return result

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Count the seconds, and draw no random numbers, whatever policy and compiler do."""
        start = time.perf_counter()
        try:
            with kept_random_numbers():
                yield
        finally:
            self.seconds += time.perf_counter() - start

    def report_uncompiled(self, what: str, reason: str) -> None:
        """Log why something runs uncompiled, once per reason."""
        if self._uncompiled.get(what) != reason:
            self._uncompiled[what] = reason
            self._tell(f"{what} runs uncompiled: {reason}")

    def _announce(self, what: str, seconds: float) -> None:
        self._tell(f"compiling {what}, which takes about {seconds:.0f} s, once per network and machine")

    def _announce_wait(self) -> None:
        """Log, once, that this run waits: the other process compiles the next graphs, too."""
        if not self._has_waited:
            self._has_waited = True
            self._tell("another process compiles the same graphs; this run waits for it")
