"""Relative claims: an algorithm reaches a share of another's return, on average over environments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.measure import SEEDS, describe, measure, tell
from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.statistics import Floats, Sample, bootstrap_interval_of_groups, interquartile_mean

# Of one environment: the runs of the algorithm, and those of the other one.
Pair = tuple[Sequence[RunResult], Sequence[RunResult]]


@dataclass(frozen=True)
class RelativeClaim:
    """
    The interquartile mean over seeds of the final return, divided by that of ``other``, is at least ``share`` on average over
    environments. A ratio says nothing where the other's return is not positive: then the claim fails.
    """

    algorithm: str
    other: str
    env_ids: tuple[str, ...]
    timesteps: int
    share: float
    seeds: tuple[int, ...] = SEEDS

    @property
    def statement(self) -> str:
        """The claim in words."""
        where = ", ".join(self.env_ids)
        return f"{self.algorithm} reaches {self.share:g} of {self.other} on {where} in {thousands(self.timesteps)} steps"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """Both algorithms in every environment."""
        return tuple((name, env_id) for env_id in self.env_ids for name in (self.algorithm, self.other))

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed of both and judges; raises what :func:`~sb3_pgx.experiments.compare` raises for bad arguments."""
        pairs = {
            env_id: (
                measure(self.algorithm, env_id, self.timesteps, self.seeds, settings),
                measure(self.other, env_id, self.timesteps, self.seeds, settings),
            )
            for env_id in self.env_ids
        }
        return judge(self, pairs, settings.command)


def judge(claim: RelativeClaim, pairs: Mapping[str, Pair], command: str) -> Verdict:
    """
    :param claim: the claim
    :param pairs: by environment, one run for each seed of the algorithm and of the other one
    :param command: what reproduces the verdict, for the record
    :return: the verdict; a run that failed makes the claim fail
    """
    runs = {
        env_id: dict(zip((claim.algorithm, claim.other), map(describe, pair), strict=True)) for env_id, pair in pairs.items()
    }
    lines = [
        f"{label} on {env_id}, {line}"
        for env_id, pair in pairs.items()
        for label, results in zip((claim.algorithm, claim.other), pair, strict=True)
        for line in tell(results)
    ]
    ratio = interval = None
    ratios: dict[str, float] = {}
    if not any(summary["errors"] for by_label in runs.values() for summary in by_label.values()):
        groups = [[r.mean_return for r in results] for pair in pairs.values() for results in pair]
        means = [interquartile_mean(group) for group in groups]
        if min(means[1::2]) > 0:
            ratios = {env_id: float(a / b) for env_id, a, b in zip(pairs, means[::2], means[1::2], strict=True)}
            ratio = float(mean_ratio(*groups))
            interval = list(bootstrap_interval_of_groups(groups, mean_ratio))
            each = ", ".join(f"{env_id} {value:.3f}" for env_id, value in ratios.items())
            lines.append(f"{each}: mean {ratio:.3f}, 95 % interval [{interval[0]:.3f}, {interval[1]:.3f}]")
        else:
            lines.append(f"no ratio: a return of {claim.other} is {min(means[1::2]):.1f}, and must be positive")
    passed = ratio is not None and ratio >= claim.share
    record = {
        "claim": claim.statement,
        "passed": passed,
        "share": claim.share,
        "timesteps": claim.timesteps,
        "ratio": ratio,
        "interval_95": interval,
        "ratio_per_environment": ratios,
        "runs": runs,
        **provenance(claim, command),
    }
    where = f", {claim.env_ids[0]}" if len(claim.env_ids) == 1 else ""  # of several single ones, each has an entry
    return Verdict(f"{claim.share:g} of {claim.other}{where}", claim.statement, passed, tuple(lines), record)


def mean_ratio(*groups: Sample, axis: int = 0) -> Floats:
    """Mean over environments of the ratio of interquartile means; each environment has two groups, one after the other."""
    means = [interquartile_mean(group, axis=axis) for group in groups]
    return np.mean([a / b for a, b in zip(means[::2], means[1::2], strict=True)], axis=0)
