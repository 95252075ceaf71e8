"""Shows the progress of many jobs: as a table that changes in a terminal, and as lines from time to time in a log file."""

import heapq
import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from sb3_pgx.experiments.number_format import duration, quantity, thousands
from sb3_pgx.experiments.runs import RunProgress

FIRST_LINES, SHARE_OF_TIME = 30.0, 0.1  # seconds between lines in a log: 30, later a tenth of the time since the start
SILENT_SECONDS = 60.0  # a job that reports nothing for so long may hang, and its line says so


@dataclass
class Job:
    """
    A job that is running.

    :param name: name of the run, such as ``ppo on CartPole-v1, seed 0``
    :param kind: jobs of one kind take about the same time
    :param total: environment steps of the run
    """

    name: str
    kind: str
    total: int
    started: float = field(default_factory=lambda: time.monotonic())
    so_far: RunProgress = field(default_factory=RunProgress)
    reported: float = field(default_factory=lambda: time.monotonic())

    def report(self, progress: RunProgress) -> None:
        """Add what the job has done since its last report."""
        self.so_far += progress
        self.reported = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the job needs at its speed so far; ``None`` if that is unknown."""
        if not self.so_far.steps:
            return None
        return (time.monotonic() - self.started) * max(self.total / self.so_far.steps - 1.0, 0.0)

    def cells(self) -> tuple[str, ...]:
        """Return name, steps, speed, last return and time left in words, and how long the job has been silent."""
        silent = time.monotonic() - self.reported
        return (*self._work(), f"no report for {duration(silent)}") if silent >= SILENT_SECONDS else self._work()

    def _work(self) -> tuple[str, ...]:
        done = self.so_far
        if done.activity:
            return self.name, done.activity
        if not done.steps:
            return self.name, "starts"
        if done.steps >= self.total:
            return self.name, f"{thousands(done.steps)} steps", "plays the final episodes"
        cells = [self.name, f"{thousands(done.steps)} of {thousands(self.total)} steps"]
        if done.seconds > 0:
            cells.append(f"{thousands(done.steps / done.seconds)} frames/s")
        if done.last_return is not None:
            cells.append(f"last return {done.last_return:.4g}")
        if self.seconds_left is not None:
            cells.append(f"about {duration(self.seconds_left)} left")
        return tuple(cells)


def time_left(
    running: Sequence[Job], waiting: Iterable[str], finished: Mapping[str, Sequence[float]], workers: int
) -> float | None:
    """
    Estimate the seconds until all jobs have ended: each waiting job starts when a worker is free, and takes as long as others
    of its kind.

    :param running: the jobs that are running
    :param waiting: the kinds of the jobs that are waiting, in their order
    :param finished: seconds that finished jobs took, by kind
    :param workers: number of jobs at the same time
    :return: the estimate; ``None`` if nothing is known yet
    """
    known: dict[str, list[float]] = defaultdict(list, {kind: [*seconds] for kind, seconds in finished.items()})
    for job in running:
        if job.seconds_left is not None:
            known[job.kind].append(time.monotonic() - job.started + job.seconds_left)
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in known.items() if seconds}
    if not means:
        return None
    typical = sum(means.values()) / len(means)
    free = [job.seconds_left if job.seconds_left is not None else means.get(job.kind, typical) for job in running]
    free = sorted([*free, *[0.0] * (workers - len(free))])
    for kind in waiting:
        heapq.heapreplace(free, free[0] + means.get(kind, typical))
    return max(free)


class Progress(AbstractContextManager["Progress"]):
    """
    The progress of many jobs, on standard output: a table that changes if that is a terminal and the package rich is
    installed, and otherwise lines from time to time.

    :param kinds: the kind of each job, in the order in which they start
    :param workers: number of jobs at the same time; ``None`` if it is unknown
    :param noun: what a job is, such as ``run``
    :param shown: whether to show anything
    """

    def __init__(self, kinds: Sequence[str], workers: int | None, noun: str = "run", shown: bool = True):
        self._waiting, self._workers, self._noun, self._shown = [*kinds], workers, noun, shown
        self._total, self._ended = len(kinds), 0
        self._jobs: dict[Hashable, Job] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._started = self._lines_at = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> "Progress":
        if self._shown and sys.stdout.isatty() and find_spec("rich") is not None:
            self._live = importlib.import_module("rich.live").Live(get_renderable=self._table, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def begin(self, key: Hashable, name: str, kind: str, total: int) -> None:
        """Say that a job has started; arguments are those of :class:`Job`."""
        if kind in self._waiting:
            self._waiting.remove(kind)
        self._jobs[key] = Job(name, kind, total)

    def advance(self, key: Hashable, progress: RunProgress) -> None:
        """Say what a job has done since the last call. That it compiles is printed at once."""
        job = self._jobs[key]
        job.report(progress)
        if progress.activity and self._shown and self._live is None:
            print(f"{job.name}: {progress.activity}", flush=True)

    def end(self, key: Hashable) -> None:
        """Say that a job has ended, whether or not :meth:`begin` was called for it."""
        self._ended += 1
        if (job := self._jobs.pop(key, None)) is not None:
            self._seconds[job.kind].append(time.monotonic() - job.started)

    def refresh(self) -> None:
        """Print lines if it is time to. Call this often."""
        now = time.monotonic()
        if not self._shown or self._live is not None:
            return
        if now - self._lines_at >= max(FIRST_LINES, SHARE_OF_TIME * (now - self._started)):
            self._lines_at = now
            print("\n".join([self._summary(), *(f"  {', '.join(job.cells())}" for job in self._jobs.values())]), flush=True)

    def _summary(self) -> str:
        done = f"{self._ended} of {quantity(self._total, self._noun)} in {duration(time.monotonic() - self._started)}"
        if self._workers is None:
            return done
        left = time_left([*self._jobs.values()], self._waiting, self._seconds, self._workers)
        return done if left is None else f"{done}, about {duration(left)} left"

    def _table(self) -> Any:
        text, table = importlib.import_module("rich.text").Text, importlib.import_module("rich.table").Table
        grid = table.grid(padding=(0, 2))
        for job in [*self._jobs.values()]:  # a copy, because this runs in a thread of its own
            grid.add_row(*map(text, job.cells()))  # square brackets would be markup otherwise
        return importlib.import_module("rich.console").Group(grid, text(self._summary()))
