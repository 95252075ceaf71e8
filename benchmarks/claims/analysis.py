"""Judge a claim by its draws. The verdict is a pure function of the draws, so it can be recomputed from a record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims import verdicts
from benchmarks.claims.draws import Draw
from benchmarks.claims.false_alarms import ALARMS, UPDATES
from benchmarks.claims.protocol import FINAL_RETURN, KINDS, Claim
from benchmarks.claims.verdicts import Interval
from sb3_pgx.experiments.statistics import (
    Floats,
    Sample,
    StatisticOfGroups,
    bootstrap_interval_of_groups,
    interquartile_mean,
    interquartile_mean_difference,
    mean,
)


@dataclass(frozen=True)
class IntervalEstimate:
    """
    A number that a claim is about.

    :param name: what was measured
    :param value: point estimate, for information; no verdict depends on it
    :param interval: confidence interval of the claim's level 1 − α
    :param verdict: verdict that follows from the interval
    :param tost_interval: interval of level 1 − 2α, for claims with a margin
    """

    name: str
    value: float
    interval: Interval
    verdict: str
    tost_interval: Interval | None = None


@dataclass(frozen=True)
class Judgement:
    """
    The outcome of a claim.

    :param verdict: verdict on the whole claim
    :param estimates: the numbers behind the verdict; empty if a run failed
    :param reason: why there is no estimate; empty if there is one
    """

    verdict: str
    estimates: tuple[IntervalEstimate, ...]
    reason: str = ""


def judge(claim: Claim, draws: Sequence[Draw]) -> Judgement:
    """
    Judge a claim by all of its draws.

    The protocol defines in advance how failed runs count. A failed run of the claim's algorithm decides against the claim. A
    failed run of its peer leaves it undecided.

    :param claim: the claim
    :param draws: one per contender, environment and planned seed
    :raises ValueError: a planned draw is missing, or one was not planned
    """
    planned = {(label, env_id, seed) for label in claim.contenders for env_id in claim.environments for seed in claim.seeds}
    found = [(d.contender, d.env_id, d.seed) for d in draws]
    if len(found) != len(planned) or set(found) != planned:
        raise ValueError(f"{claim.name!r} is judged by its {len(planned)} planned runs and by no others; got {len(found)}")
    failed = [d for d in draws if d.error is not None]
    if failed:
        ours = any(d.contender == claim.contenders[0] for d in failed)
        against = verdicts.NOT_REACHED if KINDS[claim.kind].claimed == verdicts.REACHED else verdicts.WORSE
        return Judgement(against if ours else verdicts.UNDECIDED, (), f"{len(failed)} of {len(draws)} runs failed")
    estimates = tuple(ESTIMATES[claim.kind](claim, draws))
    if not estimates:
        return Judgement(verdicts.UNDECIDED, (), f"no ratio: a return of {claim.peer} is not positive")
    return Judgement(verdicts.least_favourable(e.verdict for e in estimates), estimates)


def samples(claim: Claim, draws: Sequence[Draw], measure: str) -> list[list[float]]:
    """Return one sample per environment and contender, in the order of the seeds. The contenders vary fastest."""
    value = {(d.contender, d.env_id, d.seed): d.measured[measure] for d in draws}
    return [
        [value[label, env_id, seed] for seed in claim.seeds] for env_id in claim.environments for label in claim.contenders
    ]


def _learning(claim: Claim, draws: Sequence[Draw]) -> list[IntervalEstimate]:
    groups = samples(claim, draws, FINAL_RETURN)
    return [_bounded(claim, FINAL_RETURN, groups, single(interquartile_mean), verdicts.at_least)]


def _relative(claim: Claim, draws: Sequence[Draw]) -> list[IntervalEstimate]:
    groups = samples(claim, draws, FINAL_RETURN)
    if min(interquartile_mean(theirs) for theirs in groups[1::2]) <= 0:  # a ratio to a return <= 0 has no meaning
        return []
    return [_bounded(claim, f"share of the {FINAL_RETURN}", groups, mean_ratio, verdicts.at_least)]


def _differences(claim: Claim, draws: Sequence[Draw]) -> list[IntervalEstimate]:
    estimates = []
    for measure, margin in (claim.margins or {}).items():
        groups = samples(claim, draws, measure)
        value = float(interquartile_mean_difference(*groups))
        interval, tost = (
            bootstrap_interval_of_groups(groups, interquartile_mean_difference, level)
            for level in (claim.confidence, 2 * claim.confidence - 1)
        )
        verdict = verdicts.difference(interval, tost, margin)
        estimates.append(IntervalEstimate(f"difference in {measure}", value, interval, verdict, tost))
    return estimates


def _gradient_variance(claim: Claim, draws: Sequence[Draw]) -> list[IntervalEstimate]:
    return [
        _bounded(claim, baseline, samples(claim, draws, baseline), single(mean), verdicts.at_most)
        for baseline in draws[0].measured
    ]


def _false_alarms(claim: Claim, draws: Sequence[Draw]) -> list[IntervalEstimate]:
    alarms, updates = (np.sum(samples(claim, draws, measure), axis=0) for measure in (ALARMS, UPDATES))
    return [_bounded(claim, "alarms in 100 updates", [100 * alarms / updates], single(mean), verdicts.at_most)]


ESTIMATES: dict[str, Callable[[Claim, Sequence[Draw]], list[IntervalEstimate]]] = {
    "learning": _learning,
    "relative": _relative,
    "equivalence": _differences,
    "superiority": _differences,
    "improvement": _differences,
    "gradient variance": _gradient_variance,
    "false alarms": _false_alarms,
}


def _bounded(
    claim: Claim,
    name: str,
    groups: Sequence[Sample],
    statistic: StatisticOfGroups,
    compare: Callable[[Interval, float], str],
) -> IntervalEstimate:
    assert claim.bound is not None
    interval = bootstrap_interval_of_groups(groups, statistic, claim.confidence)
    return IntervalEstimate(name, float(statistic(*groups, axis=0)), interval, compare(interval, claim.bound))


def single(statistic: Callable[..., Floats]) -> StatisticOfGroups:
    """Convert a statistic of one sample to a statistic of one group."""
    return lambda *groups, axis: statistic(groups[0], axis=axis)


def mean_ratio(*groups: Sample, axis: int = 0) -> Floats:
    """Return the mean over environments of the ratio of interquartile means. Each environment has two groups, ours first."""
    means = [interquartile_mean(group, axis=axis) for group in groups]
    return np.mean([a / b for a, b in zip(means[::2], means[1::2], strict=True)], axis=0)
