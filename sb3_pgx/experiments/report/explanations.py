"""Explains each number and each chart of a report in words."""

from collections.abc import Iterator

import numpy as np

from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.number_format import quantity, thousands
from sb3_pgx.experiments.small_samples import widening

# Coverage of the 95 % interval of a mean from 3 seeds, in percent: python -m benchmarks.coverage --write
COVERED = {"normal": 95, "lognormal": 85, "bimodal": 63}


def explanations(design: ComparisonDesign) -> Iterator[str]:
    """Yield an explanation for each kind of number in the report."""
    several = len(design.env_ids) > 1
    yield (
        f"Final return: the final policy of each seed plays {quantity(design.eval_episodes, 'deterministic episode')}. The "
        f"number is the mean over seeds {list(design.seeds)} of each seed's mean return."
    )
    factor = float(widening([np.arange(max(2, len(design.seeds)), dtype=float)]))
    yield (
        "95 % intervals: percentile bootstrap over seeds, widened because few seeds vary too little (Hesterberg, 2015); "
        f"the factor for {quantity(len(design.seeds), 'seed')} is {factor:.2f}. "
        f"In simulations with 3 seeds they cover the true mean in {COVERED['normal']} % of cases if returns are normal, in "
        f"{COVERED['lognormal']} % if they are lognormal, and in {COVERED['bimodal']} % if 30 % of the runs fail: no interval "
        "can include a failure that no seed has shown. An end may lie beyond the largest possible return. Seeds that are all "
        "equal give no interval."
    )
    yield (
        "Interquartile mean (shown for 4 seeds and more): the mean of the middle half of the runs. Outliers at either end do "
        "not affect it, and it needs fewer runs than a median (Agarwal et al., 2021)."
    )
    if design.thresholds:
        yield (
            "Steps to the threshold: environment steps at the first evaluation "
            f"({quantity(design.curve_episodes, 'deterministic episode')}) whose mean return reached the threshold; median "
            "over seeds. A seed that never reached it counts as later than any that did."
        )
    if design.scored:
        yield (
            "Score: the return, scaled linearly so that the two returns given below become 0 and 1. A score may lie below 0 "
            "or above 1. If 1 is the best run of this comparison, scores cannot be compared with those of another report."
        )
    if several:
        yield (
            "All environments together: the interquartile mean is over all runs of all environments. The mean and the "
            "median are over the environments' means. The optimality gap is the average shortfall from 1, where scores above "
            "1 count as 1. Only seeds that finished in every environment count, so failed runs make an algorithm look better "
            "than it is."
        )
        yield (
            "Intervals over environments: stratified bootstrap. Runs are resampled within each environment. The environments "
            "are fixed, so the intervals say nothing about other environments."
        )
    yield (
        f"Performance profile: the fraction of runs whose {'score' if design.scored else 'return'} is above τ, for every τ. "
        "An algorithm whose curve is above another's everywhere is better at every level of performance."
    )
    if len(design.algorithms) > 1:
        yield (
            "Probability of improvement: how often a run of the first algorithm beats a run of the second, averaged over "
            "environments; a tie counts as half (the Mann–Whitney statistic). It says how often, not by how much. Its "
            "interval is Newcombe's score interval (2006) with Student's quantile, averaged over environments, and not "
            "corrected for the number of pairs."
        )
        yield from _tests(design)
    yield (
        f"Budget: every run learned from at most {thousands(design.timesteps)} environment steps, summed over its parallel "
        "environments. A rollout that would have ended later was cut short and not learned from."
    )
    where = (
        "possibly on different machines, whose speeds differ"
        if design.workers is None
        else f"with up to {quantity(design.workers, 'run')} at the same time on one machine"
    )
    yield (
        f"Frames per second and seconds: training time without evaluations, one thread per run, {where}. Compiling counts as "
        "training."
    )
    yield "Charts: click a name in the legend to hide or show its lines, drag to zoom, double-click to zoom out."
    yield (
        "A comparison of algorithms is also a comparison of hyperparameters: a file that was tuned for an environment has an "
        "advantage over defaults. Every run's evaluations are in runs/, runs.csv and curves.csv."
    )


def _tests(design: ComparisonDesign) -> Iterator[str]:
    unit = "score" if design.scored else "return"
    looks = (
        f" and by {len(design.looks)} looks, after {', '.join(map(str, design.looks))} seeds, which were declared beforehand"
        if design.looks
        else ""
    )
    yield (
        f"Verdict: better or worse if Welch's t-interval of the difference of the mean {unit}s does not include 0. Its "
        f"level is 5 % divided by the number of pairs{looks} (Bonferroni), so at most 5 % of such reports contain a wrong "
        "verdict if returns are roughly normal. Undecided is no proof that two algorithms are equal."
    )
    if design.margin:
        yield (
            f"Equivalent: two one-sided Welch t-tests (Schuirmann, 1987) reject both that the difference is {design.margin:g} "
            f"or more and that it is {-design.margin:g} or less, each at the same level."
        )


def chart_caption(name: str, design: ComparisonDesign) -> str:
    """Return the caption of a chart."""
    band = "; bands and bars are 95 % intervals, an open marker has none" if len(design.seeds) > 1 else ""
    score = "score" if design.scored else "return"
    captions = {
        "curves": f"Return of {quantity(design.curve_episodes, 'deterministic episode')} during training: mean over seeds, "
        "and every seed as a thin line",
        "aggregates": "Aggregate scores of each algorithm over all runs of all environments",
        "profiles": f"Fraction of the runs whose final {score} is above τ",
        "improvement": "How often a run of the first algorithm ends above a run of the second; at 0.5 neither is better",
        "sample_efficiency": "Interquartile mean of the score over all environments and seeds, by environment steps per run",
        "wall_clock": f"Interquartile mean of the {score} over all runs, by seconds of training without evaluations; a run "
        f"that has ended keeps its last {score}",
    }
    return f"{captions[name]}{band}."
