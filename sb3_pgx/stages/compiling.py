"""Decide whether a run is compiled, and log what compiling does and takes."""

import sys
import time
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.core.errors import warn
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import COMPILE_AFTER


class Compiling(BaseAlgorithm):
    """An algorithm whose functions may be compiled."""

    compile: bool | str
    compile_after = COMPILE_AFTER  # gradient steps beyond which compile="auto" compiles
    compiled: bool  # whether acting and gradient steps run compiled where they can; `learn` decides
    n_gradient_steps: int  # taken so far
    _compile_log: CompileLog

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return how many gradient steps so many environment steps lead to, for ``compile="auto"``."""
        return 0

    def _decide_on_compiling(self, total_timesteps: int) -> None:
        self._compile_log.seconds = 0.0
        if self.compile == "auto" and self.device.type != "cpu":
            self.compiled = False  # compiling is tested on the CPU alone
        elif self.compile == "auto":
            remaining = min(total_timesteps, sys.maxsize) - self.num_timesteps  # it may be infinite
            planned = self.planned_gradient_steps(remaining)
            self.compiled = self.compiled or self.n_gradient_steps + planned > self.compile_after
        else:
            self.compiled = bool(self.compile)

    def dump_logs(self, *iteration: Any) -> None:
        """
        As SB3's, except that ``time/fps`` leaves compiling out. How long it took in this call of ``learn`` is
        ``time/compile_seconds``.

        :param iteration: number of the iteration, for algorithms that log it
        """
        compiling, at_start = self._compile_log.seconds, self._num_timesteps_at_start
        if compiling > 0:
            self.logger.record("time/compile_seconds", round(compiling, 2))
            # SB3 divides the steps since `learn` began, of which it keeps the beginning, by all of the time since then.
            elapsed = (time.time_ns() - self.start_time) / 1e9
            steps = self.num_timesteps - at_start
            self._num_timesteps_at_start = self.num_timesteps - int(steps * elapsed / max(elapsed - compiling, 1e-9))
        try:
            super().dump_logs(*iteration)
        finally:
            self._num_timesteps_at_start = at_start

    def _tell(self, sentence: str) -> None:
        if self.compile is True and "uncompiled" in sentence:
            warn(f"compile=True: {sentence}")
        self.logger.info(sentence)
