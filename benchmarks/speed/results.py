"""What the benchmark measured, as numbers, and what follows from it: ratios between contenders, round by round."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.speed.cases import Case, Goal


@dataclass(frozen=True)
class Round:
    """A training, or a walk, of so many environment steps (all environments together) in so many seconds."""

    frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Environment steps a second."""
        return self.frames / self.seconds


@dataclass(frozen=True)
class PhaseRound:
    """
    A training with a stopwatch on it.

    :param seconds: of each phase, without the phases inside it
    :param env_steps: steps of all environments at once
    :param gradient_steps: minibatches
    """

    seconds: dict[str, float]
    env_steps: int
    gradient_steps: int

    @property
    def acting_us(self) -> float:
        """Microseconds of a step of all environments beyond their own: acting and bookkeeping."""
        return 1e6 * self.seconds["collect"] / self.env_steps

    @property
    def step_us(self) -> float:
        """Microseconds of a minibatch step."""
        return 1e6 * self.seconds["update"] / self.gradient_steps

    def share(self, phase: str) -> float:
        """Part of the whole time, in [0, 1]; 0 of a phase that a file of results does not know."""
        return self.seconds.get(phase, 0.0) / sum(self.seconds.values())


@dataclass(frozen=True)
class Timing:
    """
    What was measured of one contender.

    :param rounds: whole trainings
    :param phase_rounds: trainings with a stopwatch, apart from those
    :param warm_up_seconds: compiling, from an empty cache
    :param peak_memory_mib: of a process of its own after ``rounds``; where another's took its turns, after the warm-up
    :param data_bytes: of its tensors and the rollout buffer's arrays, between two updates
    :param warm_cache_seconds: the same as ``warm_up_seconds`` in a process that found the cache filled; None: not measured
    """

    rounds: list[Round]
    phase_rounds: list[PhaseRound]
    warm_up_seconds: float
    peak_memory_mib: float
    data_bytes: int
    warm_cache_seconds: float | None = None


@dataclass(frozen=True)
class CaseResult:
    """
    What was measured of a case, when, where and how.

    :param case: what was measured
    :param timings: by contender, the algorithm of this package among them
    :param ceiling: the environments alone
    :param skipped: contenders that could not run, with the reason
    :param timesteps: environment steps of a round, at least
    :param command: what reproduces the result
    :param date: day of the measurement
    :param machine: CPU model, cores, system
    :param versions: versions of the packages that were timed
    :param commit: commit that was checked out; ``None``: not recorded
    :param clean: whether the tree was that commit's
    :param code_hash: hash of the code that was timed; ``None``: not recorded, so the result is stale
    """

    case: Case
    timings: dict[str, Timing]
    ceiling: list[Round]
    skipped: dict[str, str]
    timesteps: int
    command: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None = None
    clean: bool | None = None
    code_hash: str | None = None


class Spread(NamedTuple):
    """Median, lowest and highest value over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """
    How to compare two contenders.

    :param values: of a contender, one for each round
    :param inverse: the ratio is the peer's value divided by ours, so that more is better
    :param at_most: a goal is the most that the ratio may be, and not the least
    """

    values: Callable[[Timing], Sequence[float]]
    inverse: bool = False
    at_most: bool = False


METRICS = {
    "frames": Metric(lambda timing: [r.frames_per_second for r in timing.rounds]),
    "step": Metric(lambda timing: [r.step_us for r in timing.phase_rounds], inverse=True),
    "acting": Metric(lambda timing: [r.acting_us for r in timing.phase_rounds], inverse=True),
    "memory": Metric(lambda timing: [timing.peak_memory_mib], at_most=True),
    "data": Metric(lambda timing: [timing.data_bytes], at_most=True),
}


@dataclass(frozen=True)
class Comparison:
    """Our value and a peer's (medians), their ratio, and what it is meant to be."""

    metric: str
    peer: str
    ours: float
    theirs: float
    ratio: Spread
    goal: float | None = None
    reached: bool | None = None


def compare(result: CaseResult) -> list[Comparison]:
    """Every metric of a case against every peer that was measured."""
    ours = result.timings[result.case.algorithm]
    return [
        _compare(metric, peer, ours, timing, result.case.goals)
        for peer, timing in result.timings.items()
        if peer != result.case.algorithm
        for metric in METRICS
    ]


def spread(values: Sequence[float]) -> Spread:
    """:raises statistics.StatisticsError: no value"""
    return Spread(median(values), min(values), max(values))


def as_record(result: CaseResult) -> dict[str, Any]:
    """The result with what follows from it, so that the file can be read without this package."""
    return {**asdict(result), "comparisons": [{**asdict(c), "ratio": c.ratio._asdict()} for c in compare(result)]}


def read_results(path: Path) -> list[CaseResult]:
    """The results in a file that the benchmark wrote."""
    return [_from_record(record) for record in json.loads(path.read_text(encoding="utf-8")).values()]


def _compare(metric: str, peer: str, ours: Timing, theirs: Timing, goals: Sequence[Goal]) -> Comparison:
    how = METRICS[metric]
    pairs = list(zip(how.values(ours), how.values(theirs), strict=True))
    ratio = spread([b / a if how.inverse else a / b for a, b in pairs])
    goal = next((g.ratio for g in goals if (g.metric, g.peer) == (metric, peer)), None)
    reached = None if goal is None else ratio.median <= goal if how.at_most else ratio.median >= goal
    return Comparison(metric, peer, median(a for a, _ in pairs), median(b for _, b in pairs), ratio, goal, reached)


def _from_record(record: dict[str, Any]) -> CaseResult:
    case = {**record["case"], "peers": tuple(record["case"]["peers"])}
    case["goals"] = tuple(Goal(**goal) for goal in case["goals"])
    timings = {
        name: Timing(
            **{
                **timing,
                "rounds": [Round(**r) for r in timing["rounds"]],
                "phase_rounds": [PhaseRound(**r) for r in timing["phase_rounds"]],
            }
        )
        for name, timing in record["timings"].items()
    }
    measured = {key: value for key, value in record.items() if key != "comparisons"}
    ceiling = [Round(**r) for r in record["ceiling"]]
    return CaseResult(**{**measured, "case": Case(**case), "timings": timings, "ceiling": ceiling})
