"""What a worker does with a trial: it trains the seeds and says what comes of it. No word of Optuna here."""

import traceback
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from sb3_pgx.experiments.runs import RunResult, RunSpec, execute
from sb3_pgx.tuning.thread_coroutine import Pause, ThreadCoroutine


@dataclass(frozen=True)
class SeedResult:
    """What is kept of a seed that was trained and evaluated: enough to score the trial, and never to train the seed again."""

    seed: int
    mean_return: float
    curve_steps: list[int]
    curve_returns: list[float]
    training_seconds: float

    @classmethod
    def of(cls, result: RunResult) -> "SeedResult":
        """
        :raises SeedFailed: the run failed, or a return is not finite
        """
        if result.error is not None:
            raise SeedFailed(f"seed {result.seed}: {result.error}", result.traceback or "")
        if not np.isfinite(result.returns).all():
            raise SeedFailed(f"seed {result.seed}: an episode of the final policy returned {result.mean_return}")
        return cls(result.seed, result.mean_return, result.curve_steps, result.curve_returns, result.training_seconds)


class SeedFailed(Exception):
    """A seed did not come to its end; the sentence and the traceback."""

    def __init__(self, sentence: str, details: str = ""):
        super().__init__(sentence)
        self.details = details


@dataclass(frozen=True)
class Task:
    """
    The runs of a trial.

    :param specs: one a seed
    :param finished: of an earlier attempt, by seed
    :param in_lock_step: whether the seeds are trained from one point of the learning curve to the next, each in turn, or
        one after the other
    """

    specs: tuple[RunSpec, ...]
    finished: dict[int, SeedResult]
    in_lock_step: bool


class TrialListener(Protocol):
    """How a worker says what it has, and hears whether it goes on."""

    def steps(self, steps: int) -> bool:
        """So many environment steps were done. Returns whether anybody listens."""

    def point(self, steps: int, mean_return: float) -> bool:
        """What the seeds return at this many environment steps, on average. Returns whether to go on."""

    def seed(self, finished: SeedResult) -> bool:
        """A seed is finished. Returns whether to go on."""


def work(task: Task, listener: TrialListener) -> None:
    """
    Trains what is not finished yet.

    :param task: the runs
    :param listener: is told what comes of it
    :raises SeedFailed: a run failed; the others are not gone on with
    :raises Interrupted: nobody listens any more
    """
    (_in_lock_step if task.in_lock_step else _one_after_the_other)(task, listener)


def _one_after_the_other(task: Task, listener: TrialListener) -> None:
    for spec in task.specs:
        finished = task.finished.get(spec.seed)
        if not listener.seed(finished or SeedResult.of(execute(spec, listener.steps))):
            return


def _in_lock_step(task: Task, listener: TrialListener) -> None:
    coroutines = [ThreadCoroutine(partial(_run_or_replay, spec, task, listener)) for spec in task.specs]
    told: set[int] = set()
    try:
        while len(told) < len(coroutines):
            for i, coroutine in enumerate(coroutines):
                if not coroutine.finished and not coroutine.resume():
                    assert coroutine.result is not None
                    told.add(i)
                    listener.seed(coroutine.result)
            # Episodes differ in length, not so the steps at which a curve has its points.
            if not told and not listener.point(
                coroutines[0].value[0], float(np.mean([coroutine.value[1] for coroutine in coroutines]))
            ):
                return
    finally:
        for coroutine in coroutines:
            coroutine.stop()


def _run_or_replay(spec: RunSpec, task: Task, listener: TrialListener, pause: Pause) -> SeedResult:
    """A seed that was finished before pauses where it did then, so that the others are not alone in the mean."""
    finished = task.finished.get(spec.seed)
    if finished is None:
        return SeedResult.of(execute(spec, listener.steps, lambda steps, value: pause((steps, value))))
    for point in zip(finished.curve_steps, finished.curve_returns, strict=True):
        pause(point)
    return finished


def describe_error(error: BaseException) -> tuple[str, str]:
    """The sentence for an error, and its traceback."""
    if isinstance(error, SeedFailed):
        return str(error), error.details
    sentence = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return sentence, "".join(traceback.format_exception(error))
