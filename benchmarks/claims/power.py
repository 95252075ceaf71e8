"""Sample sizes: the number of seeds that a claim needs, computed from the spread of a pilot."""

import math
from collections.abc import Sequence

from sb3_pgx.experiments.statistics import RESAMPLES, Sample, StatisticOfGroups

MIN_SEEDS = 10  # with fewer, a bootstrap interval is too short


def required_seeds(distance: float, spread: float, power: float, confidence: float, equivalence: bool = False) -> int:
    """
    Return the smallest number of seeds with the wanted power, by the normal approximation of the statistic.

    :param distance: distance from the assumed true value to the bound; for equivalence the margin, as the assumed
        difference is 0
    :param spread: standard error of the statistic with one seed per group, see :func:`spread_of`; with n seeds it is
        ``spread / √n``
    :param power: wanted probability of the claimed verdict, in (0, 1)
    :param confidence: level 1 − α of the claim's interval
    :param equivalence: whether the claim is decided by two one-sided tests of level α
    :return: seeds per group, at least :data:`MIN_SEEDS`
    :raises ValueError: ``distance`` is not positive: no number of seeds can show the claim
    """
    from scipy.stats import norm

    if distance <= 0:
        raise ValueError(
            f"the distance to the bound is {distance:g}, but must be positive; no number of seeds shows a claim that is false"
        )
    needed = norm.ppf((1 + power) / 2 if equivalence else power) + _critical_value(confidence, equivalence)
    return max(MIN_SEEDS, math.ceil((needed * spread / distance) ** 2))


def power_of(seeds: int, distance: float, spread: float, confidence: float, equivalence: bool = False) -> float:
    """Return the probability of the claimed verdict with this many seeds per group; arguments as :func:`required_seeds`."""
    from scipy.stats import norm

    if spread == 0:
        return 1.0
    shown = norm.cdf(distance * math.sqrt(seeds) / spread - _critical_value(confidence, equivalence))
    return max(0.0, float(2 * shown - 1 if equivalence else shown))


def spread_of(groups: Sequence[Sample], statistic: StatisticOfGroups) -> float:
    """
    Estimate the standard error of a statistic with one seed per group from a pilot. The bootstrap is the one that judges
    claims.

    :param groups: values of the pilot, ``[S]`` each, with the same S ≥ 2 for all groups
    :param statistic: statistic that the claim is about, such as the difference of interquartile means
    """
    from scipy.stats import bootstrap

    sizes = {len(group) for group in groups}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"a pilot needs the same number of seeds in each group, at least 2; got {sorted(sizes)}")
    (n,) = sizes
    drawn = bootstrap(groups, statistic, axis=0, vectorized=True, n_resamples=RESAMPLES, method="percentile", random_state=0)
    # The variance of a sample underestimates the true one by the factor (n - 1) / n.
    return float(drawn.standard_error) * math.sqrt(n) * math.sqrt(n / (n - 1))


def _critical_value(confidence: float, equivalence: bool) -> float:
    from scipy.stats import norm

    return float(norm.ppf(confidence if equivalence else (1 + confidence) / 2))
