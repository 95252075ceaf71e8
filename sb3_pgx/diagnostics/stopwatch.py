"""Measure where the time goes: a stopwatch for nested phases, and the shares of environments, acting and updates in a run."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.diagnostics.update_metrics import Measured

ENVIRONMENT, ACTING, UPDATE, MEASURING = "environment", "acting", "update", "measuring"
REPORTED = (ENVIRONMENT, ACTING, UPDATE)
TIMED_METHODS = ("step_async", "step_wait")


class Stopwatch:
    """
    Measure nested phases.

    The time of a phase excludes the phases inside it, so the phases add up to the whole. The clock is read once at each
    beginning and end of a phase. ``calls`` counts how often each phase of :meth:`timed` began.

    :param phase: outermost phase at the start
    :param phases: phases that :meth:`seconds` reports even if they never happened
    :param clock: function that returns nanoseconds
    """

    def __init__(self, phase: str, phases: Sequence[str] = (), clock: Callable[[], int] = time.perf_counter_ns):
        self.calls: Counter[str] = Counter()
        self._nanoseconds = Counter(dict.fromkeys([*phases, phase], 0))
        self._clock = clock
        self._phases = [phase]
        self._since = clock()

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return the function, timed: each call is a phase inside the current one."""
        return _TimedFunction(self, function, phase)

    def begin(self, phase: str) -> None:
        """Begin a phase inside the current one."""
        self._add_elapsed()
        self._phases.append(phase)
        self.calls[phase] += 1

    def end(self) -> None:
        """End the phase that began last."""
        self._add_elapsed()
        self._phases.pop()

    def switch(self, phase: str) -> None:
        """Replace the current phase by another one."""
        self._add_elapsed()
        self._phases[-1] = phase

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase up to now."""
        self._add_elapsed()
        return {phase: nanoseconds / 1e9 for phase, nanoseconds in self._nanoseconds.items()}

    def _add_elapsed(self) -> None:
        now = self._clock()
        self._nanoseconds[self._phases[-1]] += now - self._since
        self._since = now


class _TimedFunction:
    """A function whose calls are a phase. An object instead of a closure, so that a deep copy calls the copied method."""

    def __init__(self, stopwatch: Stopwatch, function: Callable[..., Any], phase: str):
        self._stopwatch, self._function, self._phase = stopwatch, function, phase

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._stopwatch.begin(self._phase)
        try:
            return self._function(*args, **kwargs)
        finally:
            self._stopwatch.end()


class RunTimer:
    """
    Measure which shares of a run's time the environments, acting and updates take.

    The environments' own time is measured around ``step_async`` and ``step_wait`` of the innermost ``VecEnv``, between
    :meth:`attach` and :meth:`detach`. The time that diagnostics take themselves is the phase ``MEASURING``, which is not
    reported.

    :param clock: function that returns nanoseconds
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns):
        self._clock = clock
        self._env: VecEnv | None = None
        self._own: dict[str, Any] = {}  # attributes of the environments that timed methods replace
        self._start()

    def _start(self) -> None:
        self._stopwatch = Stopwatch(MEASURING, REPORTED, self._clock)
        self._read = dict.fromkeys(REPORTED, 0.0)  # seconds at the last reading

    def attach(self, env: VecEnv) -> None:
        """Start measuring, and time the steps of ``env`` until :meth:`detach`."""
        self.detach()
        self._start()
        self._env = env.unwrapped
        self._own = {name: vars(self._env)[name] for name in TIMED_METHODS if name in vars(self._env)}
        for name in TIMED_METHODS:
            setattr(self._env, name, self._stopwatch.timed(getattr(self._env, name), ENVIRONMENT))

    def detach(self) -> None:
        """Restore the environments' methods."""
        if self._env is not None:
            for name in TIMED_METHODS:
                vars(self._env).pop(name, None)
            vars(self._env).update(self._own)
        self._env = None

    def switch(self, phase: str) -> None:
        """Begin ``ACTING``, ``UPDATE`` or ``MEASURING``."""
        self._stopwatch.switch(phase)

    def read(self) -> Measured:
        """Return the shares since the last reading, which sum to 1. Acting includes callbacks and bookkeeping."""
        seconds = self._stopwatch.seconds()
        since = {phase: seconds[phase] - self._read[phase] for phase in REPORTED}
        self._read = seconds
        total = sum(since.values())
        return {f"time_{phase}": s / total for phase, s in since.items()} if total > 0 else {}
