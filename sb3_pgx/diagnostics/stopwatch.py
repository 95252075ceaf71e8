"""Where the time goes: environments, acting, updates."""

import time
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.diagnostics.measures import Measured

TIMED = ("step_async", "step_wait")


class Stopwatch:
    """
    Adds up the time of each part of a training since it was last read.

    The environments' own time is taken around ``step_async`` and ``step_wait`` of the innermost ``VecEnv``, between
    :meth:`attach` and :meth:`detach`.
    """

    def __init__(self) -> None:
        self._env: VecEnv | None = None
        self._own: dict[str, Any] = {}  # methods that somebody has given to the environments themselves
        self.restart()

    def restart(self) -> None:
        """Forget what was added up."""
        self._stepping = self._collecting = self._updating = 0.0
        self._mark = time.perf_counter()

    def attach(self, env: VecEnv) -> None:
        """Time the environments' steps from here on."""
        self._env = env.unwrapped
        self._own = {name: vars(self._env)[name] for name in TIMED if name in vars(self._env)}
        for name in TIMED:
            setattr(self._env, name, _Timed(self, getattr(self._env, name)))

    def detach(self) -> None:
        """Leave the environments as they were."""
        if self._env is not None:
            for name in TIMED:
                vars(self._env).pop(name, None)
            vars(self._env).update(self._own)
        self._env = None

    def collected(self) -> None:
        """A rollout has ended."""
        self._collecting += self._lap()

    def updated(self) -> None:
        """An update has ended."""
        self._updating += self._lap()

    def skip(self) -> None:
        """What has passed since the last event belongs to nobody: it is the measuring itself."""
        self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap

    def read(self) -> Measured:
        """Shares of the time, which sum to 1; acting includes callbacks and bookkeeping."""
        total = self._collecting + self._updating
        stepping, collecting, updating = self._stepping, self._collecting, self._updating
        self._stepping = self._collecting = self._updating = 0.0
        if total <= 0:
            return {}
        return {
            "time_environment": stepping / total,
            "time_acting": (collecting - stepping) / total,
            "time_update": updating / total,
        }


class _Timed:
    """A method of an environment, with the time that it takes added to a stopwatch."""

    def __init__(self, watch: Stopwatch, method: Any):
        self._watch, self._method = watch, method

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._method(*args)
        finally:
            self._watch._stepping += time.perf_counter() - start
