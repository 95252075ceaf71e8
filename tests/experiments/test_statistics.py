"""Statistics over seeds, against numbers computed by hand and by enumeration."""

import itertools
import math

import numpy as np
import pytest

from sb3_pgx.experiments.statistics import (
    align_curves,
    bootstrap_interval,
    interquartile_mean,
    mean,
    median_steps,
    steps_to_threshold,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 100.0], 2.5),  # one of four is left out at each end
        ([500.0, 0.0, 480.0, 490.0, 500.0], (480.0 + 490.0 + 500.0) / 3),  # one of five
        ([7.0, 1.0, 4.0], 4.0),  # a quarter of three is less than one: nothing is left out
        ([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0], 3.5),
    ],
)
def test_interquartile_mean_is_the_mean_of_the_middle_half(values, expected):
    assert interquartile_mean(np.array(values)) == pytest.approx(expected, rel=1e-12)


def test_bootstrap_interval_is_that_of_all_resamples():
    values = [1.0, 2.0, 4.0, 9.0]
    all_means = sorted(sum(sample) / 4 for sample in itertools.product(values, repeat=4))  # the exact distribution, 256 values
    low, high = bootstrap_interval(values, mean, confidence=0.9)
    assert low == pytest.approx(np.quantile(all_means, 0.05), abs=0.15)
    assert high == pytest.approx(np.quantile(all_means, 0.95), abs=0.15)


def test_bootstrap_interval_is_for_the_statistic_that_was_asked_for():
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1000.0]
    assert bootstrap_interval(values, mean)[1] > 200.0
    assert bootstrap_interval(values, interquartile_mean)[1] < bootstrap_interval(values, mean)[1]


def test_bootstrap_interval_covers_each_point_of_a_curve_separately():
    curves = np.array([[1.0, 10.0, 5.0], [3.0, 10.0, 7.0]])  # two seeds: resampled means are the two values and their middle
    low, high = bootstrap_interval(curves)
    np.testing.assert_allclose(low, [1.0, 10.0, 5.0])
    np.testing.assert_allclose(high, [3.0, 10.0, 7.0])


def test_bootstrap_interval_is_reproducible():
    assert bootstrap_interval([1.0, 5.0, 9.5, 2.0]) == bootstrap_interval([1.0, 5.0, 9.5, 2.0])


def test_one_seed_has_no_interval():
    low, high = bootstrap_interval([3.0])
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.filterwarnings("error")
def test_equal_seeds_have_an_interval_of_one_point():
    assert bootstrap_interval([500.0] * 5, interquartile_mean) == (500.0, 500.0)


def test_no_seed_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([10.0, 475.0, 20.0, 500.0], 200),  # the first one counts, though the next falls below
        ([10.0, 474.9, 20.0, 500.0], 400),
        ([10.0, 20.0, 30.0, 40.0], None),
        ([480.0, 0.0, 0.0, 0.0], 100),
    ],
)
def test_threshold_is_reached_at_the_first_evaluation_at_or_above_it(returns, expected):
    assert steps_to_threshold([100, 200, 300, 400], returns, 475.0) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([100, 300, 200], 200.0), ([100, None, 200], 200.0), ([None, 100, None], None), ([100, None], None), ([100, 300], 200.0)],
)
def test_a_seed_that_never_reached_the_threshold_counts_as_latest_in_the_median(steps, expected):
    assert median_steps(steps) == expected


def test_curves_at_equal_steps_stay_as_they_are():
    steps, returns = align_curves([([10, 20], [1.0, 2.0]), ([10, 20], [3.0, 5.0])])
    assert steps.tolist() == [10, 20] and returns.tolist() == [[1.0, 2.0], [3.0, 5.0]]


def test_curves_at_other_steps_are_interpolated_and_never_extrapolated():
    steps, returns = align_curves([([10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0]), ([15, 35], [0.0, 20.0])])
    assert steps.tolist() == [20, 30]
    np.testing.assert_allclose(returns, [[2.0, 3.0], [5.0, 15.0]])  # a quarter and three quarters of the way from 0 to 20
