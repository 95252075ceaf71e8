"""Draws: the result of one seed, for all kinds of claims. All draws are kept, including failed ones."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from sb3_pgx.core.errors import type_and_text
from sb3_pgx.experiments.pool import Runner, run_all
from sb3_pgx.experiments.shards import WHOLE, Shard


@dataclass(frozen=True)
class Draw:
    """
    One run of one contender.

    :param contender: its label in the claim
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the run
    :param measured: the numbers that the claim is about, by measure; empty if the run failed
    :param error: error message of a failed run, or ``None``
    :param steps: environment steps that were taken
    :param seconds: wall-clock seconds of training
    :param returns: returns of the episodes that the final policy played
    """

    contender: str
    env_id: str
    seed: int
    measured: dict[str, float]
    error: str | None = None
    steps: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class RunOptions:
    """
    Options that do not change the results.

    :param workers: number of runs at the same time; ``None``: the number of processors
    :param configs: folder of hyperparameter files; ``None``: this repository's
    :param output: folder that keeps every run; finished runs in it are reused if their code hash is the same
    :param progress: whether to show a progress bar
    :param runner: executes training runs
    :param shard: the share of each claim's training runs that this process executes, for
        :func:`~benchmarks.claims.measuring.run_shares`
    """

    workers: int | None = None
    configs: Path | None = None
    output: Path | None = None
    progress: bool = True
    runner: Runner = run_all
    shard: Shard = WHOLE


def in_processes(run: Callable[..., Draw], jobs: Sequence[tuple], workers: int | None) -> list[Draw]:
    """
    Run each job in a process of its own.

    :param run: function of ``(contender, env_id, seed, ...)``; an exception becomes a failed draw
    :param jobs: arguments of ``run``, one tuple per job
    :param workers: number of processes at the same time; default: 2
    """
    with ProcessPoolExecutor(workers or 2, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, *job) for job in jobs]
        return [_draw_of(future.result, job) for future, job in zip(futures, jobs, strict=True)]


def _draw_of(result: Callable[[], Draw], job: tuple) -> Draw:
    try:
        return result()
    except Exception as error:
        contender, env_id, seed, *_ = job
        return Draw(contender, env_id, seed, {}, error=type_and_text(error))
