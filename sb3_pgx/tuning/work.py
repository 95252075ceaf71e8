"""What a worker does with a trial: it trains the seeds and says what comes of it. No word of Optuna here."""

import traceback
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from sb3_pgx.experiments.runs import RunResult, RunSpec, execute
from sb3_pgx.tuning.turns import Pause, Strand


@dataclass(frozen=True)
class Finished:
    """What is kept of a seed that was trained and evaluated: enough to score the trial, and never to train the seed again."""

    seed: int
    mean_return: float
    curve_steps: list[int]
    curve_returns: list[float]
    training_seconds: float

    @classmethod
    def of(cls, result: RunResult) -> "Finished":
        """
        :raises Failure: the run failed, or a return is not finite
        """
        if result.error is not None:
            raise Failure(f"seed {result.seed}: {result.error}", result.traceback or "")
        if not np.isfinite(result.returns).all():
            raise Failure(f"seed {result.seed}: an episode of the final policy returned {result.mean_return}")
        return cls(result.seed, result.mean_return, result.curve_steps, result.curve_returns, result.training_seconds)


class Failure(Exception):
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
    finished: dict[int, Finished]
    in_lock_step: bool


class Talk(Protocol):
    """How a worker says what it has, and hears whether it goes on."""

    def steps(self, steps: int) -> bool:
        """So many environment steps were done. Returns whether anybody listens."""

    def point(self, steps: int, mean_return: float) -> bool:
        """What the seeds return at this many environment steps, on average. Returns whether to go on."""

    def seed(self, finished: Finished) -> bool:
        """A seed is finished. Returns whether to go on."""


def work(task: Task, talk: Talk) -> None:
    """
    Trains what is not finished yet.

    :param task: the runs
    :param talk: is told what comes of it
    :raises Failure: a run failed; the others are not gone on with
    :raises Interrupted: nobody listens any more
    """
    (_in_lock_step if task.in_lock_step else _one_after_the_other)(task, talk)


def _one_after_the_other(task: Task, talk: Talk) -> None:
    for spec in task.specs:
        finished = task.finished.get(spec.seed)
        if not talk.seed(finished or Finished.of(execute(spec, talk.steps))):
            return


def _in_lock_step(task: Task, talk: Talk) -> None:
    strands = [Strand(partial(_run_or_replay, spec, task, talk)) for spec in task.specs]
    told: set[int] = set()
    try:
        while len(told) < len(strands):
            for i, strand in enumerate(strands):
                if not strand.finished and not strand.resume():
                    assert strand.result is not None
                    told.add(i)
                    talk.seed(strand.result)
            # Episodes differ in length, not so the steps at which a curve has its points.
            if not told and not talk.point(strands[0].value[0], float(np.mean([strand.value[1] for strand in strands]))):
                return
    finally:
        for strand in strands:
            strand.stop()


def _run_or_replay(spec: RunSpec, task: Task, talk: Talk, pause: Pause) -> Finished:
    """A seed that was finished before pauses where it did then, so that the others are not alone in the mean."""
    finished = task.finished.get(spec.seed)
    if finished is None:
        return Finished.of(execute(spec, talk.steps, lambda steps, value: pause((steps, value))))
    for point in zip(finished.curve_steps, finished.curve_returns, strict=True):
        pause(point)
    return finished


def describe(error: BaseException) -> tuple[str, str]:
    """The sentence for an error, and its traceback."""
    if isinstance(error, Failure):
        return str(error), error.details
    sentence = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return sentence, "".join(traceback.format_exception(error))
