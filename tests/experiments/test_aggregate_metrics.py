"""Statistics over seeds and environments: compared with the definitions and with rliable 1.2.0 on the same arrays."""

import itertools
import tracemalloc

import numpy as np
import pytest

from sb3_pgx.experiments.aggregate_metrics import (
    AGGREGATES,
    performance_profile,
    pooled_interquartile_mean,
    probability_of_improvement,
)
from sb3_pgx.experiments.statistics import MAX_ELEMENTS, RESAMPLES, stratified_interval

X = np.round(np.sin(np.arange(15.0)), 1).reshape(5, 3)  # five seeds in three environments
Y = np.round(0.8 * np.cos(1.3 * np.arange(21.0)), 1).reshape(7, 3)
CURVES = np.round(np.sin(np.arange(30.0)), 1).reshape(5, 3, 2)
TAUS = np.array([-0.75, -0.25, 0.05, 0.5, 0.95])

# rliable 1.2.0 (arch 7.2.0, pandas 2.3.3): metrics.aggregate_*, and library.get_interval_estimates with 20,000 resamples.
RLIABLE = {
    "interquartile mean": ((0.12222222222222223, -0.389, 0.533), (0.0909090909090909, -0.3, 0.427)),
    "mean": ((0.08, -0.28, 0.413), (0.04285714285714285, -0.205, 0.286)),
    "median": ((0.12, -0.24, 0.52), (0.05714285714285715, -0.243, 0.329)),
    "optimality gap": ((0.92, 0.587, 1.28), (0.9571428571428572, 0.714, 1.205)),
}


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("which", [0, 1])
def test_aggregates_and_their_intervals_are_those_of_rliable(name, which):
    scores, (value, low, high) = (X, Y)[which], RLIABLE[name][which]
    assert AGGREGATES[name](scores) == pytest.approx(value, abs=1e-12)
    assert stratified_interval([scores], AGGREGATES[name]) == pytest.approx((low, high), abs=0.03)


def test_probability_of_improvement_is_that_of_rliable():
    assert probability_of_improvement(X, Y) == pytest.approx(0.5285714285714286, abs=1e-12)
    assert stratified_interval([X, Y], probability_of_improvement) == pytest.approx((0.305, 0.743), abs=0.03)


def test_probability_of_improvement_does_not_hold_all_pairs_of_many_seeds_at_a_time():
    first, second = (np.random.default_rng(seed).normal(size=(200, 40, 1)) for seed in (0, 1))
    tracemalloc.start()
    probability_of_improvement(first, second)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 40 * 40 * 8 / 2  # half of one array of all pairs


def test_performance_profiles_and_their_bands_are_those_of_rliable():
    np.testing.assert_allclose(performance_profile(X, TAUS), [0.8, 0.6, 8 / 15, 1 / 3, 2 / 15], atol=1e-12)
    low, high = stratified_interval([X], lambda scores: performance_profile(scores, TAUS))
    np.testing.assert_allclose(low, [0.6, 0.333, 0.267, 0.133, 0.0], atol=1 / 15 + 1e-3)  # a share of 15 runs has steps
    np.testing.assert_allclose(high, [1.0, 0.867, 0.8, 0.533, 0.267], atol=1 / 15 + 1e-3)


def test_interquartile_means_along_curves_are_those_of_rliable():
    np.testing.assert_allclose(pooled_interquartile_mean(np.moveaxis(CURVES, 2, 0)), [2 / 45, 4 / 45], atol=1e-12)
    low, high = stratified_interval([CURVES], pooled_interquartile_mean)
    np.testing.assert_allclose(low, [-0.189, -0.111], atol=0.03)
    np.testing.assert_allclose(high, [0.222, 0.289], atol=0.03)


def test_point_estimates_agree_with_rliable_where_it_is_installed():
    metrics = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)).round(1), rng.normal(size=(6, 4)).round(1)
    theirs = [metrics.aggregate_iqm, metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_optimality_gap]
    for ours, function in zip(AGGREGATES.values(), theirs, strict=True):
        assert ours(a) == pytest.approx(function(a), abs=1e-12)
    assert probability_of_improvement(a, b) == pytest.approx(metrics.probability_of_improvement(a, b), abs=1e-12)
    assert probability_of_improvement(a, a) == pytest.approx(0.5, abs=1e-12)


def test_runs_are_drawn_within_each_environment_and_not_across():
    """Two environments with two seeds each. Resampled across environments, the interval would reach 0 and 10."""
    scores = np.array([[0.0, 9.0], [1.0, 10.0]])
    means = sorted(
        (a + b + c + d) / 4 for a, b in itertools.product((0, 1), repeat=2) for c, d in itertools.product((9, 10), repeat=2)
    )
    low, high = stratified_interval([scores], AGGREGATES["mean"], confidence=0.8)
    assert (low, high) == (np.quantile(means, 0.1), np.quantile(means, 0.9)) == (4.75, 5.25)


def test_seeds_of_two_algorithms_are_drawn_independently():
    """With paired resampling, an algorithm would tie with itself in every resample."""
    scores = np.arange(6.0)[:, None]
    low, high = stratified_interval([scores, scores], probability_of_improvement)
    assert low < 0.3 and high > 0.7


def test_a_tie_counts_as_half_and_environments_count_alike():
    first, second = np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([[1.0, 0.0]])
    # environment 1: one tie and one win of two, 0.75; environment 2: two wins of two
    assert probability_of_improvement(first, second) == pytest.approx((0.75 + 1.0) / 2)


def test_one_seed_has_no_interval_whatever_the_shape():
    low, high = stratified_interval([X[:1]], lambda scores: performance_profile(scores, TAUS))
    assert low.shape == high.shape == (5,) and np.isnan([low, high]).all()
    assert np.isnan(stratified_interval([X, Y[:1]], probability_of_improvement)).all()
    with pytest.raises(ValueError, match="at least one value"):
        stratified_interval([X[:0]], AGGREGATES["mean"])


def test_intervals_do_not_depend_on_how_many_resamples_are_held_at_a_time():
    """So many scores that not all resamples fit; the interval of their mean is known."""
    scores = np.random.default_rng(0).normal(size=(2 * MAX_ELEMENTS // RESAMPLES, 1))
    margin = 1.96 * scores.std() / np.sqrt(len(scores))
    expected = scores.mean() - margin, scores.mean() + margin
    np.testing.assert_allclose(stratified_interval([scores], AGGREGATES["mean"]), expected, atol=0.1 * margin)
