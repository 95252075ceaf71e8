"""Intervals and verdicts for few seeds, against published quantiles, SciPy's tests, definitions and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from sb3_pgx.experiments.aggregate_metrics import pooled_interquartile_mean, probability_of_improvement
from sb3_pgx.experiments.small_samples import (
    improvement_interval,
    mean_difference,
    seed_interval,
    stratified_seed_interval,
    widening,
)
from sb3_pgx.experiments.statistics import bootstrap_interval, stratified_interval
from sb3_pgx.experiments.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE, judge

STUDENT = {2: 12.7062, 3: 4.3027, 5: 2.7764, 10: 2.2622}  # 97.5 % quantiles of Student's t with n − 1 degrees of freedom


@pytest.mark.parametrize("n", STUDENT)
def test_the_widening_is_students_quantile_over_the_normal_one_and_bessels_correction(n):
    assert widening([np.arange(float(n))]) == pytest.approx(STUDENT[n] / 1.959964 * math.sqrt(n / (n - 1)), rel=1e-4)


def test_strata_have_the_degrees_of_freedom_of_welch_and_satterthwaite():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 4), rng.normal(0, 5, 6)
    degrees = stats.ttest_ind(a, b, equal_var=False).df
    shrunk = (a.var() / 4 + b.var() / 6) / (a.var(ddof=1) / 4 + b.var(ddof=1) / 6)
    assert widening([a, b]) == pytest.approx(stats.t.ppf(0.975, degrees) / 1.959964 / math.sqrt(shrunk), rel=1e-6)


def test_both_ends_of_a_bootstrap_interval_move_away_from_the_estimate():
    values = [1.0, 2.0, 9.0]
    (low, high), (inner_low, inner_high) = seed_interval(values), bootstrap_interval(values)
    factor = STUDENT[3] / 1.959964 * math.sqrt(3 / 2)
    assert (4.0 - low, high - 4.0) == pytest.approx((factor * (4.0 - inner_low), factor * (inner_high - 4.0)), rel=1e-4)


def test_at_many_seeds_intervals_agree_with_those_of_rliable():
    scores = np.random.default_rng(0).normal(size=(100, 2))
    ours, theirs = (
        interval([scores], pooled_interquartile_mean, resamples=100)
        for interval in (stratified_seed_interval, stratified_interval)
    )
    assert np.ptp(ours) == pytest.approx(np.ptp(theirs), rel=0.02)
    theirs = stratified_interval([scores, scores + 0.2], probability_of_improvement, resamples=300)
    assert improvement_interval(scores, scores + 0.2) == pytest.approx([float(x) for x in theirs], abs=0.03)


def test_ends_of_the_improvement_interval_are_z_standard_deviations_away():
    """Newcombe's method 5 with Student's quantile: Hanley and McNeil's variance, with the mean of both sample sizes."""
    first, second = np.array([[3.0], [5.0], [8.0], [9.0]]), np.array([[1.0], [4.0], [6.0]])
    share = stats.mannwhitneyu(first[:, 0], second[:, 0]).statistic / 12
    for end in improvement_interval(first, second):
        spread = 1 + 2.5 * ((1 - end) / (2 - end) + end / (1 + end))
        assert abs(share - end) == pytest.approx(stats.t.ppf(0.975, 5) * math.sqrt(end * (1 - end) * spread / 12), rel=1e-6)


def test_complete_separation_of_three_seeds_is_no_certainty():
    above, below = np.array([[3.0], [4.0], [5.0]]), np.array([[0.0], [1.0], [2.0]])
    low, high = improvement_interval(above, below)
    assert low < 0.5 and high == 1.0
    assert improvement_interval(below, above) == pytest.approx((0.0, 1 - low))


def test_the_difference_of_means_is_that_of_welchs_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 1, (5, 1)), rng.normal(0, 4, (7, 1))
    theirs = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert mean_difference(a, b).interval(0.1) == pytest.approx(tuple(theirs.confidence_interval(0.9)))


@pytest.mark.parametrize("shift", [0.0, 0.6, 1.2, 3.0])
def test_equivalent_means_that_both_one_sided_tests_reject(shift):
    rng = np.random.default_rng(2)
    a, b, margin = rng.normal(shift, 1, (12, 1)), rng.normal(0, 1, (12, 1)), 1.5

    def p(shifted, alternative):
        return stats.ttest_ind(shifted, b[:, 0], equal_var=False, alternative=alternative).pvalue

    both = max(p(a[:, 0] + margin, "greater"), p(a[:, 0] - margin, "less"))
    two_sided = p(a[:, 0], "two-sided")
    expected = EQUIVALENT if both < 0.05 else BETTER if two_sided < 0.05 else UNDECIDED
    assert judge(a, b, margin, comparisons=1).verdict == expected
    assert judge(b, a, margin, comparisons=1).verdict == {BETTER: WORSE}.get(expected, expected)


def test_seeds_without_spread_are_told_apart_by_an_exact_rank_test_only():
    """Of three against three seeds, complete separation has a probability of 2 / 20; of four against four, of 2 / 70."""
    for n, verdict in ((3, UNDECIDED), (4, BETTER)):
        assert judge(np.full((n, 1), 500.0), np.full((n, 1), 9.0), 0.0, comparisons=1).verdict == verdict
    same = judge(np.full((20, 1), 500.0), np.full((20, 1), 500.0), 10.0, comparisons=1)
    assert same.verdict == UNDECIDED and "no seed differs" in same.reason
    assert judge(np.full((20, 1), 500.0), np.full((20, 1), 500.0), 10.0, comparisons=1, identical=True).verdict == EQUIVALENT


def wrong_verdicts(draw, truth, margin, looks, trials, seed=0):
    """Return the share of comparisons that end with a wrong verdict if one looks after each batch of seeds."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(trials):
        a, b = draw(rng, (looks[-1], 1)) + truth, draw(rng, (looks[-1], 1))
        for n in looks:
            verdict = judge(a[:n], b[:n], margin, comparisons=len(looks)).verdict
            if verdict != UNDECIDED:
                break
        allowed = {UNDECIDED, *([BETTER] if truth > 0 else []), *([EQUIVALENT] if abs(truth) < margin else [])}
        wrong += verdict not in allowed
    return wrong / trials


def normal(rng, size):
    return rng.normal(size=size)


def bimodal(rng, size):
    return np.where(rng.random(size) < 0.7, rng.normal(500, 10, size), rng.normal(100, 50, size))


def test_looking_four_times_is_wrong_in_at_most_five_percent_of_comparisons():
    """The quick one of the tests below; without the correction for looks, 12 % are wrong."""
    assert wrong_verdicts(normal, 0.0, 0.0, (5, 10, 15, 20), 300) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "truth", "margin"),
    [
        (normal, 0.0, 0.0),
        (normal, 0.0, 0.5),
        (normal, 1.0, 1.0),
        (normal, 0.3, 0.0),
        (bimodal, 0.0, 0.0),
        (bimodal, 100.0, 100.0),
    ],
)
@pytest.mark.parametrize("looks", [(5,), (5, 10, 15, 20), (3, 6, 9, 12)])
def test_wrong_verdicts_are_rarer_than_five_percent(draw, truth, margin, looks):
    trials = 4000
    assert wrong_verdicts(draw, truth, margin, looks, trials) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
