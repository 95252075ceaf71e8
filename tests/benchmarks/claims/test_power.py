"""Sample sizes, against the exact power of the t test and against the analysis itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nct, t
from support.constructed_claims import claim_of, draws_of

from benchmarks.claims.analysis import judge, single
from benchmarks.claims.power import MIN_SEEDS, power_of, required_seeds, spread_of
from sb3_pgx.experiments.statistics import interquartile_mean_difference, mean


def exact_power(n, shift):
    """Of the two-sided t test of 5 % that normal values with standard deviation 1 have mean 0, where it is ``shift``."""
    return 1 - nct.cdf(t.ppf(0.975, n - 1), n - 1, shift * np.sqrt(n))


@pytest.mark.parametrize("shift", [0.3, 0.5, 0.6])
@pytest.mark.parametrize("wanted", [0.8, 0.95])
def test_seeds_for_a_normal_mean_are_those_of_the_t_test(shift, wanted):
    exact = next(n for n in range(2, 1000) if exact_power(n, shift) >= wanted)
    needed = required_seeds(shift, 1.0, wanted, confidence=0.95)
    assert exact - 3 <= needed <= exact  # the t test does not know the spread, which costs it two seeds


def test_power_with_many_seeds_is_that_of_the_t_test():
    for n in (400, 800):
        assert power_of(n, 0.1, 1.0, 0.95) == pytest.approx(exact_power(n, 0.1), abs=2e-3)


@pytest.mark.parametrize("equivalence", [False, True])
def test_as_many_seeds_as_needed_and_no_more(equivalence):
    needed = required_seeds(1.0, 3.0, 0.8, 0.95, equivalence)
    assert power_of(needed - 1, 1.0, 3.0, 0.95, equivalence) < 0.8 <= power_of(needed, 1.0, 3.0, 0.95, equivalence)


def test_the_spread_of_a_mean_is_the_standard_deviation():
    values = np.random.default_rng(0).normal(5.0, 3.0, 12)
    assert spread_of([values], single(mean)) == pytest.approx(values.std(ddof=1), rel=0.03)


def test_a_pilot_that_says_nothing_is_refused():
    for groups in ([[1.0]], [[1.0, 2.0], [1.0, 2.0, 3.0]]):
        with pytest.raises(ValueError, match="the same number of seeds in each group, at least 2"):
            spread_of(groups, single(mean))
    with pytest.raises(ValueError, match="no number of seeds"):
        required_seeds(-1.0, 1.0, 0.8, 0.95)
    assert required_seeds(1.0, 0.0, 0.8, 0.95) == MIN_SEEDS and power_of(10, 1.0, 0.0, 0.95) == 1.0


@pytest.mark.slow
def test_the_analysis_has_the_power_that_was_calculated():
    """Equal normal samples are found equivalent as often as planned; the percentile interval is a little too short."""
    rng = np.random.default_rng(0)
    spread = spread_of(list(rng.normal(size=(2, 4000))), interquartile_mean_difference)
    n = required_seeds(1.0, spread, 0.8, 0.95, equivalence=True)
    claim = replace(claim_of("equivalence", n_seeds=n), margins={"final return": 1.0})
    found = [judge(claim, draws_of(claim, *rng.normal(size=(2, n)))).verdict for _ in range(150)]
    assert found.count("equivalent") / len(found) == pytest.approx(0.8, abs=0.1)
