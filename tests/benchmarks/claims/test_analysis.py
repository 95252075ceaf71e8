"""From constructed draws to a verdict that is known, and to an interval that NumPy draws independently."""

from dataclasses import replace

import numpy as np
import pytest
from support.constructed_claims import claim_of, draws_of

from benchmarks.claims.analysis import judge
from benchmarks.claims.draws import Draw

OURS, THEIRS = [20.0, 35.0, 31.0, 28.0, 40.0, 33.0], [25.0, 21.0, 36.0, 30.0, 29.0, 38.0]


def middle_mean(values):
    """Interquartile mean of six values: without the lowest and the highest."""
    return np.sort(values)[..., 1:-1].mean(axis=-1)


def resampled(*groups):
    """Bootstrap samples of each group, drawn on its own."""
    rng = np.random.default_rng(1)
    return [np.array(group)[rng.integers(0, 6, (200_000, 6))] for group in groups]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([500, 490, 480, 478, 477, 476], "reached"),
        ([400, 410, 420, 390, 380, 474], "not reached"),
        ([500, 500, 500, 500, 300, 200], "undecided"),  # the point estimate is 450
        ([500, 500, 500, 499, 480, 10], "undecided"),  # the point estimate is above the threshold
    ],
)
def test_a_threshold(values, verdict):
    claim = claim_of("learning")
    assert judge(claim, draws_of(claim, values)).verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "reached"), (0.4, "not reached"), (0.95, "undecided")])
def test_a_share(factor, verdict):
    claim = claim_of("relative")
    judgement = judge(claim, draws_of(claim, [factor * x for x in OURS], OURS))
    assert judgement.verdict == verdict
    assert judgement.estimates[0].value == pytest.approx(factor)


def test_a_share_is_the_mean_over_environments_and_its_interval_draws_every_group_on_its_own():
    claim = claim_of("relative", environments={"A-v0": 10, "B-v0": 10})
    groups = [[x + shift for x in OURS] for shift in (0.0, 10.0, 50.0, 70.0)]
    (estimate,) = judge(claim, draws_of(claim, *groups)).estimates
    a, b, c, d = (middle_mean(group) for group in resampled(*groups))
    assert estimate.value == pytest.approx(
        np.mean([middle_mean(groups[0]) / middle_mean(groups[1]), middle_mean(groups[2]) / middle_mean(groups[3])])
    )
    np.testing.assert_allclose(estimate.interval, np.quantile((a / b + c / d) / 2, [0.025, 0.975]), atol=0.01)


def test_there_is_no_share_of_a_return_that_is_not_positive():
    claim = claim_of("relative")
    judgement = judge(claim, draws_of(claim, OURS, [-x for x in OURS]))
    assert (judgement.verdict, judgement.estimates) == ("undecided", ()) and "not positive" in judgement.reason


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        (0.0, 20.0, "equivalent"),
        (0.0, 5.0, "undecided"),  # the interval contains 0, and is wider than the margin
        (50.0, 20.0, "better"),
        (-50.0, 20.0, "worse"),
        (50.0, 80.0, "equivalent"),
    ],
)
def test_equivalence_within_a_margin(shift, margin, verdict):
    claim = claim_of("equivalence")
    claim = replace(claim, margins=dict.fromkeys(claim.margins, margin))
    assert judge(claim, draws_of(claim, [x + shift for x in OURS], OURS)).verdict == verdict


def test_equivalence_needs_both_the_final_return_and_the_curve():
    claim = replace(claim_of("equivalence"), margins={"final return": 80.0, "area under the learning curve": 20.0})
    judgement = judge(claim, draws_of(claim, [x + 50 for x in OURS], OURS))
    assert [e.verdict for e in judgement.estimates] == ["equivalent", "better"] and judgement.verdict == "better"


def test_the_intervals_of_a_difference_are_those_of_independently_drawn_seeds():
    claim = claim_of("equivalence")
    estimate = judge(claim, draws_of(claim, OURS, THEIRS)).estimates[0]
    ours, theirs = resampled(OURS, THEIRS)
    differences = middle_mean(ours) - middle_mean(theirs)
    np.testing.assert_allclose(estimate.interval, np.quantile(differences, [0.025, 0.975]), atol=0.4)
    np.testing.assert_allclose(estimate.tost_interval, np.quantile(differences, [0.05, 0.95]), atol=0.4)


@pytest.mark.parametrize(("gain", "verdict"), [(30.0, "better"), (3.0, "undecided"), (-30.0, "worse")])
@pytest.mark.parametrize(("kind", "contenders"), [("improvement", ("tuned", "defaults")), ("superiority", ("ppo", "sb3:ppo"))])
def test_an_algorithm_is_better_if_the_whole_interval_of_the_difference_is_above_0(kind, contenders, gain, verdict):
    claim = claim_of(kind)
    assert claim.contenders == contenders
    assert judge(claim, draws_of(claim, [x + gain for x in OURS], OURS)).verdict == verdict


@pytest.mark.parametrize(
    ("loo", "verdict"), [([0.4] * 6, "reached"), ([1.2] * 6, "not reached"), ([0.4, 1.5, 0.9, 1.2, 0.8, 1.0], "undecided")]
)
def test_the_baseline_that_lowers_the_variance_least_decides(loo, verdict):
    claim = claim_of("gradient variance")
    draws = [Draw("ppo", "CartPole-v1", s, {"mean": 0.3, "loo": x}) for s, x in zip(claim.seeds, loo, strict=True)]
    assert judge(claim, draws).verdict == verdict


@pytest.mark.parametrize(
    ("alarms", "verdict"), [([0, 0, 1, 0, 0, 0], "reached"), ([9] * 6, "not reached"), ([0, 9] * 3, "undecided")]
)
def test_alarms_are_counted_over_the_updates_of_all_environments(alarms, verdict):
    claim = claim_of("false alarms", environments={"A-v0": 10, "B-v0": 20})
    draws = [
        Draw("ppo", env_id, seed, {"alarms": n if env_id == "A-v0" else 0, "updates": updates})
        for env_id, updates in (("A-v0", 100), ("B-v0", 300))
        for seed, n in zip(claim.seeds, alarms, strict=True)
    ]
    judgement = judge(claim, draws)
    assert judgement.verdict == verdict and judgement.estimates[0].value == pytest.approx(100 * np.mean(alarms) / 400)


@pytest.mark.parametrize(
    ("kind", "contender", "verdict"),
    [
        ("learning", 0, "not reached"),
        ("relative", 0, "not reached"),
        ("relative", 1, "undecided"),
        ("equivalence", 0, "worse"),
        ("equivalence", 1, "undecided"),
        ("superiority", 0, "worse"),
        ("superiority", 1, "undecided"),
        ("improvement", 0, "worse"),
        ("improvement", 1, "undecided"),
    ],
)
def test_a_failed_run_counts_as_decided_in_advance(kind, contender, verdict):
    claim = claim_of(kind)
    draws = draws_of(claim, *[[1e6] * 6, OURS][: len(claim.contenders)])
    index = 6 * contender + 2
    draws[index] = replace(draws[index], measured={}, error="ValueError: no")
    judgement = judge(claim, draws)
    assert (judgement.verdict, judgement.reason) == (verdict, f"1 of {len(draws)} runs failed")


def test_a_claim_is_judged_by_all_planned_seeds_and_by_no_others():
    claim = claim_of("learning")
    draws = draws_of(claim, OURS)
    for wrong in (draws[:-1], [*draws, replace(draws[0], seed=2000)], [*draws[:-1], replace(draws[0], seed=2000)]):
        with pytest.raises(ValueError, match="planned runs and by no others"):
            judge(claim, wrong)
