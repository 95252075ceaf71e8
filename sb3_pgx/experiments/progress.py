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
COLUMNS = ("", "steps", "frames/s", "last return", "time left")
SHORTEST_NAME, LAST_COLUMN = 20, 26  # characters that a name and the last column have in a narrow terminal


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
    first: tuple[float, int] | None = None  # when the first steps were reported, and how many

    def report(self, progress: RunProgress) -> None:
        """Add what the job has done since its last report."""
        self.so_far += progress
        self.reported = time.monotonic()
        if self.first is None and self.so_far.steps:
            self.first = self.reported, self.so_far.steps

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the job needs at its speed since its first steps; ``None`` if that is unknown."""
        if self.first is None or self.so_far.steps == self.first[1]:
            return None
        since, before = self.first
        return (time.monotonic() - since) * max(self.total - self.so_far.steps, 0) / (self.so_far.steps - before)

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the cells of :data:`COLUMNS`. The last one says what else the job does, or how long it has been silent."""
        done = self.so_far
        return (
            self.name,
            f"{thousands(done.steps)} of {thousands(self.total)}" if done.steps else "",
            thousands(done.steps / done.seconds) if done.seconds > 0 else "",
            "" if done.last_return is None else f"{done.last_return:.4g}",
            self._silence() or self._activity() or self._time_left(),
        )

    def line(self) -> str:
        """Return the same in words."""
        name, steps, speed, last_return, _ = self.cells()
        left = self._time_left()
        parts = (
            name,
            steps and f"{steps} steps",
            speed and f"{speed} frames/s",
            last_return and f"last return {last_return}",
            self._activity() or (left and f"{left} left"),
            self._silence(),
        )
        return ", ".join(filter(None, parts))

    def _activity(self) -> str:
        if self.so_far.activity:
            return self.so_far.activity
        if not self.so_far.steps:
            return "starts"
        return "plays the final episodes" if self.so_far.steps >= self.total else ""

    def _time_left(self) -> str:
        return "" if self.seconds_left is None else f"about {duration(self.seconds_left)}"

    def _silence(self) -> str:
        silent = time.monotonic() - self.reported
        return f"no report for {duration(silent)}" if silent >= SILENT_SECONDS else ""


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
    free = [
        job.seconds_left
        if job.seconds_left is not None
        else max(means.get(job.kind, typical) - (time.monotonic() - job.started), 0.0)
        for job in running
    ]
    free = sorted([*free, *[0.0] * (workers - len(free))])
    for kind in waiting:
        heapq.heapreplace(free, free[0] + means.get(kind, typical))
    return max(free)


class Progress(AbstractContextManager["Progress"]):
    """
    The progress of many jobs, on standard output: a table that changes if that is a terminal and the package rich is
    installed, and otherwise lines from time to time.

    :param kinds: the kind of each job, in the order in which they start
    :param workers: number of jobs at the same time; ``None``: as many as are running
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
            console = importlib.import_module("rich.console").Console()
            self._live = importlib.import_module("rich.live").Live(console=console, get_renderable=self._table, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def begin(self, key: Hashable, name: str, kind: str, total: int) -> None:
        """Say that a job has started; arguments are those of :class:`Job`."""
        if key not in self._jobs and kind in self._waiting:  # a job may start again
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
            print("\n".join([self._summary(), *(f"  {job.line()}" for job in self._jobs.values())]), flush=True)

    def _summary(self) -> str:
        done = f"{self._ended} of {quantity(self._total, self._noun)} in {duration(time.monotonic() - self._started)}"
        running = [*self._jobs.values()]
        if not (workers := self._workers or len(running)):
            return done
        left = time_left(running, self._waiting, self._seconds, workers)
        return done if left is None else f"{done}, about {duration(left)} left"

    def _table(self) -> Any:
        text, table = importlib.import_module("rich.text").Text, importlib.import_module("rich.table").Table
        rows = [job.cells() for job in [*self._jobs.values()]]  # a copy, because this runs in a thread of its own
        grid = table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        others = sum(max(len(row[i]) for row in [COLUMNS, *rows]) + 2 for i in range(1, len(COLUMNS) - 1)) + LAST_COLUMN
        for i, column in enumerate(COLUMNS):
            is_last = i == len(COLUMNS) - 1
            grid.add_column(column, no_wrap=not is_last, justify="right" if i and not is_last else "left")
        for name, *cells in rows:
            room = max(self._live.console.width - others - 2, SHORTEST_NAME)
            grid.add_row(*map(text, (_shortened(name, room), *cells)))  # square brackets would be markup otherwise
        return importlib.import_module("rich.console").Group(grid, text(self._summary()))


def _shortened(name: str, length: int) -> str:
    """Return a name without its middle if it is too long: variants of an algorithm differ at both ends."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"
