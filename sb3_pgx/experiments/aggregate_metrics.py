"""
Summary statistics of an algorithm over seeds and environments (Agarwal et al., 2021), as pure functions of normalised scores.

Scores are ``[..., S, E]``: S seeds in each of E environments. The definitions are rliable's, and the tests compare the results
with rliable's. rliable itself is not a dependency: it draws from NumPy's process-wide random state, and it needs a release of
arch that cannot be imported together with pandas 3.
"""

from collections.abc import Callable

import numpy as np

from sb3_pgx.experiments.statistics import Floats, Sample, interquartile_mean


def pooled_interquartile_mean(scores: Floats) -> Floats:
    """Mean of the middle half of all runs, pooled over environments: ``[..., S, E]`` to ``[...]``."""
    return interquartile_mean(scores.reshape(*scores.shape[:-2], -1), axis=-1)


def mean_over_environments(scores: Floats) -> Floats:
    """Mean over environments of the mean over seeds; a single environment can dominate it: ``[..., S, E]`` to ``[...]``."""
    return scores.mean(axis=(-2, -1))


def median_over_environments(scores: Floats) -> Floats:
    """Median over environments of the mean over seeds; outliers have no effect: ``[..., S, E]`` to ``[...]``."""
    return np.median(scores.mean(axis=-2), axis=-1)


def optimality_gap(scores: Floats) -> Floats:
    """Average shortfall from 1, where scores above 1 count as 1: ``[..., S, E]`` to ``[...]``."""
    return 1.0 - np.minimum(scores, 1.0).mean(axis=(-2, -1))


def performance_profile(scores: Floats, taus: Sample) -> Floats:
    """
    Return the fraction of all runs that score above τ (Dolan & Moré, 2002; Agarwal et al., 2021, eq. 2).

    :param scores: normalised scores, ``[..., S, E]``
    :param taus: values of τ, ``[T]``
    :return: one fraction per τ, ``[T, ...]``
    """
    return np.stack([(scores > tau).mean(axis=(-2, -1)) for tau in taus])


def probability_of_improvement(first: Floats, second: Floats) -> Floats:
    """
    Probability that a run of the first algorithm scores above a run of the second, averaged over environments. A tie counts
    as half. This is the Mann–Whitney statistic U / (S₁ S₂).

    :param first: scores of the first algorithm, ``[..., S₁, E]``
    :param second: scores of the second algorithm, ``[..., S₂, E]``
    :return: ``[...]``
    """
    # One run of the first at a time: all pairs at once would not fit into memory for the resamples of many seeds.
    runs = np.moveaxis(first, -2, 0)[..., None, :]  # [S₁, ..., 1, E]
    return np.mean([((run > second) + 0.5 * (run == second)).mean(axis=(-2, -1)) for run in runs], axis=0)


AGGREGATES: dict[str, Callable[[Floats], Floats]] = {
    "interquartile mean": pooled_interquartile_mean,
    "mean": mean_over_environments,
    "median": median_over_environments,
    "optimality gap": optimality_gap,
}
SMALLEST = {"optimality gap": 0.0}  # where an interval cannot go on; the other metrics have no bounds
