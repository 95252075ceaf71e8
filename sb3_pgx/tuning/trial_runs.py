"""Trains the seeds of a trial in a worker and reports the results. Nothing here depends on Optuna."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from sb3_pgx.core.errors import type_and_text
from sb3_pgx.experiments.runs import RunProgress, RunResult, RunSpec, execute
from sb3_pgx.tuning.thread_coroutine import Pause, ThreadCoroutine


@dataclass(frozen=True)
class SeedResult:
    """The stored result of one seed: enough to score the trial and to resume it without repeating the seed."""

    seed: int
    mean_return: float
    curve_steps: list[int]
    curve_returns: list[float]
    training_seconds: float

    @classmethod
    def of(cls, result: RunResult) -> "SeedResult":
        """
        Keep the part of a run's result that is stored.

        :raises SeedFailed: the run failed, or a return is not finite
        """
        if result.error is not None:
            raise SeedFailed(f"seed {result.seed}: {result.error}", result.traceback or "")
        if not np.isfinite(result.returns).all():
            raise SeedFailed(f"seed {result.seed}: an episode of the final policy returned {result.mean_return}")
        return cls(result.seed, result.mean_return, result.curve_steps, result.curve_returns, result.training_seconds)


class SeedFailed(Exception):
    """The run of a seed failed. Holds the message, and the traceback in ``details``."""

    def __init__(self, sentence: str, details: str = ""):
        super().__init__(sentence)
        self.details = details


@dataclass(frozen=True)
class Task:
    """
    The runs of a trial.

    :param specs: one run per seed
    :param finished: results of an earlier attempt, by seed
    :param in_lock_step: whether the seeds take turns, each training to the next point of the learning curve; otherwise they
        train one after the other
    :param execute: trains and evaluates a run; its arguments and result are those of
        :func:`~sb3_pgx.experiments.runs.execute`
    :param timeout: seconds after which the worker is ended; ``None`` for no limit
    """

    specs: tuple[RunSpec, ...]
    finished: dict[int, SeedResult]
    in_lock_step: bool
    execute: Callable[..., RunResult] = execute
    timeout: float | None = None


class TrialListener(Protocol):
    """Receives a worker's progress and decides whether the worker continues."""

    def progress(self, progress: RunProgress) -> bool:
        """Report what a seed has done since its last report. Return whether anybody is listening."""

    def point(self, steps: int, mean_return: float) -> bool:
        """Report the mean return of all seeds at a number of environment steps. Return whether to continue."""

    def seed(self, finished: SeedResult) -> bool:
        """Report a finished seed. Return whether to continue."""


def run_task(task: Task, listener: TrialListener) -> None:
    """
    Train the seeds that are not finished yet.

    :param task: the runs of a trial
    :param listener: receives the progress
    :raises SeedFailed: a run failed; the other runs are stopped
    :raises Interrupted: nobody is listening any more
    """
    (_in_lock_step if task.in_lock_step else _one_after_the_other)(task, listener)


def _one_after_the_other(task: Task, listener: TrialListener) -> None:
    for spec in task.specs:
        finished = task.finished.get(spec.seed)
        if not listener.seed(finished or SeedResult.of(task.execute(spec, listener.progress))):
            return


def _in_lock_step(task: Task, listener: TrialListener) -> None:
    coroutines = [ThreadCoroutine(partial(_run_or_replay, spec, task, listener)) for spec in task.specs]
    finished: set[int] = set()
    try:
        while len(finished) < len(coroutines):
            for i, coroutine in enumerate(coroutines):
                if not coroutine.finished and not coroutine.resume():
                    assert coroutine.result is not None
                    finished.add(i)
                    listener.seed(coroutine.result)
            # All seeds have reached the same environment step, even if their episodes differ in length.
            if not finished and not listener.point(
                coroutines[0].value[0], float(np.mean([coroutine.value[1] for coroutine in coroutines]))
            ):
                return
    finally:
        for coroutine in coroutines:
            coroutine.stop()


def _run_or_replay(spec: RunSpec, task: Task, listener: TrialListener, pause: Pause) -> SeedResult:
    """Train a seed. One that is already finished replays its learning curve, so that the mean over seeds includes it."""
    finished = task.finished.get(spec.seed)
    if finished is None:
        return SeedResult.of(task.execute(spec, listener.progress, lambda steps, value: pause((steps, value))))
    for point in zip(finished.curve_steps, finished.curve_returns, strict=True):
        pause(point)
    return finished


def describe_error(error: BaseException) -> tuple[str, str]:
    """Return an error as one sentence, and its traceback."""
    if isinstance(error, SeedFailed):
        return str(error), error.details
    return type_and_text(error), "".join(traceback.format_exception(error))
