"""Results of the speed benchmark, and the ratios between contenders that follow from them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.speed.cases import Case, Goal


@dataclass(frozen=True)
class Round:
    """Environment steps, summed over all environments, and the seconds that they took, in training or with random actions."""

    frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Environment steps per second."""
        return self.frames / self.seconds


@dataclass(frozen=True)
class PhaseRound:
    """
    A round of training with a stopwatch.

    :param seconds: seconds per phase, excluding the phases inside it
    :param env_steps: steps of all environments at once
    :param gradient_steps: number of minibatches
    """

    seconds: dict[str, float]
    env_steps: int
    gradient_steps: int

    @property
    def acting_us(self) -> float:
        """Microseconds of acting and bookkeeping per step of all environments, excluding the environments' own time."""
        return 1e6 * self.seconds["collect"] / self.env_steps

    @property
    def step_us(self) -> float:
        """Microseconds per minibatch step."""
        return 1e6 * self.seconds["update"] / self.gradient_steps

    def share(self, phase: str) -> float:
        """Return the phase's share of the whole time, in [0, 1]; 0 for a phase that older results lack."""
        return self.seconds.get(phase, 0.0) / sum(self.seconds.values())


@dataclass(frozen=True)
class Timing:
    """
    The measurements of one contender.

    :param rounds: rounds of training
    :param phase_rounds: further rounds, with a stopwatch; none of a contender that runs as one piece
    :param warm_up_seconds: seconds of compiling, from an empty cache
    :param peak_memory_mib: peak memory of the process after ``rounds``; after the warm-up if another process ran the rounds;
        ``None`` if not measured
    :param data_bytes: bytes of all tensors and of the rollout buffer's arrays, between two updates; ``None`` if not measured
    :param warm_cache_seconds: ``warm_up_seconds`` of a process with a filled cache; ``None`` if not measured
    """

    rounds: list[Round]
    phase_rounds: list[PhaseRound]
    warm_up_seconds: float
    peak_memory_mib: float | None
    data_bytes: int | None
    warm_cache_seconds: float | None = None


@dataclass(frozen=True)
class CaseResult:
    """
    The measurements of a case: numbers, date, machine, and command.

    :param case: the case
    :param timings: timings by contender, including the algorithm of this package
    :param ceiling: rounds of the environments alone
    :param skipped: contenders that could not run, with the reason
    :param timesteps: smallest number of environment steps per round
    :param command: command that reproduces the result
    :param date: day of the measurement
    :param machine: CPU model, cores, system
    :param versions: versions of the packages that were timed
    :param commit: commit that was checked out; ``None``: not recorded
    :param clean: whether the working tree had no changes
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
    """Median, lowest and highest value over rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """
    A way to compare two contenders.

    :param values: function from the timing of a contender to one value per round; none if it was not measured
    :param inverse: whether the ratio is the peer's value divided by ours, so that larger is better
    :param at_most: whether a goal is the largest allowed ratio, not the smallest
    """

    values: Callable[[Timing], Sequence[float]]
    inverse: bool = False
    at_most: bool = False


def _known(value: float | None) -> Sequence[float]:
    return [value] if value else []  # 0 bytes of data: what the contender has is not torch's


METRICS = {
    "frames": Metric(lambda timing: [r.frames_per_second for r in timing.rounds]),
    "step": Metric(lambda timing: [r.step_us for r in timing.phase_rounds], inverse=True),
    "acting": Metric(lambda timing: [r.acting_us for r in timing.phase_rounds], inverse=True),
    "memory": Metric(lambda timing: _known(timing.peak_memory_mib), at_most=True),
    "data": Metric(lambda timing: _known(timing.data_bytes), at_most=True),
}


@dataclass(frozen=True)
class PeerComparison:
    """Our median and a peer's, their ratio, and the goal for it."""

    metric: str
    peer: str
    ours: float
    theirs: float
    ratio: Spread
    goal: float | None = None
    reached: bool | None = None


def compare_with_peers(result: CaseResult) -> list[PeerComparison]:
    """Return the comparison of every metric with every peer, as far as they were measured."""
    ours = result.timings[result.case.algorithm]
    return [
        _compare_metric(metric, peer, ours, timing, result.case.goals)
        for peer, timing in result.timings.items()
        if peer != result.case.algorithm
        for metric, how in METRICS.items()
        if how.values(ours) and how.values(timing)
    ]


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest of at least one value."""
    return Spread(median(values), min(values), max(values))


def as_record(result: CaseResult) -> dict[str, Any]:
    """Return the result with its comparisons, so that the file can be read without this package."""
    return {**asdict(result), "comparisons": [{**asdict(c), "ratio": c.ratio._asdict()} for c in compare_with_peers(result)]}


def read_results(path: Path) -> list[CaseResult]:
    """Return the results in a file that the benchmark wrote."""
    return [_from_record(record) for record in json.loads(path.read_text(encoding="utf-8")).values()]


def _compare_metric(metric: str, peer: str, ours: Timing, theirs: Timing, goals: Sequence[Goal]) -> PeerComparison:
    how = METRICS[metric]
    pairs = list(zip(how.values(ours), how.values(theirs), strict=True))
    ratio = spread([b / a if how.inverse else a / b for a, b in pairs])
    goal = next((g.ratio for g in goals if (g.metric, g.peer) == (metric, peer)), None)
    reached = None if goal is None else ratio.median <= goal if how.at_most else ratio.median >= goal
    return PeerComparison(metric, peer, median(a for a, _ in pairs), median(b for _, b in pairs), ratio, goal, reached)


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
