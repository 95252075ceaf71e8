"""The clipped surrogate and the KL estimate against their definitions."""

import math

import numpy as np
import pytest
import torch as th

from sb3_pgx.ops.metrics import approximate_kl, explained_variance
from sb3_pgx.ops.objectives import clipped, clipped_surrogate, score_function, sum_of, weighted


@pytest.mark.parametrize("advantage", [1.5, -0.5])
@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0])
def test_the_surrogates_gradient_is_the_advantage_or_nothing_where_clipped(ratio, advantage):
    r = th.tensor([ratio], dtype=th.float64, requires_grad=True)
    A = th.tensor([advantage], dtype=th.float64)
    value = clipped_surrogate(r, A, 0.2)
    (gradient,) = th.autograd.grad(value.sum(), r)
    clipped = ratio > 1.2 if advantage > 0 else ratio < 0.8  # moved beyond ε in the direction that A asks for
    assert gradient.item() == (0.0 if clipped else advantage)
    bound = 1.2 if advantage > 0 else 0.8
    assert value.item() == pytest.approx((bound if clipped else ratio) * advantage)


@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_where_the_ratio_is_at_the_clip_the_gradient_is_the_advantage(advantage):
    """As in the first step of an update whose clip_range has been scheduled to 0."""
    r = th.ones(1, dtype=th.float64, requires_grad=True)
    value = clipped_surrogate(r, th.tensor([advantage], dtype=th.float64), 0.0)
    (gradient,) = th.autograd.grad(value.sum(), r)
    assert gradient.item() == value.item() == advantage


@pytest.mark.parametrize("bound", [0.5, th.tensor(0.5, dtype=th.float64)], ids=["number", "tensor"])
def test_a_change_is_clipped_beyond_its_bound_and_keeps_its_gradient_at_it(bound):
    x = th.tensor([-3.0, -0.5, -0.2, 0.0, 0.5, 0.7, math.nan], dtype=th.float64, requires_grad=True)
    result = clipped(x, bound)
    np.testing.assert_array_equal(result.detach(), [-0.5, -0.5, -0.2, 0.0, 0.5, 0.5, math.nan])
    (gradient,) = th.autograd.grad(result[:-1].sum(), x)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("advantage", [1.5, -0.5, 0.0])
@pytest.mark.parametrize("clip_range", [0.2, 1.5])
def test_the_surrogate_is_the_smaller_of_the_two_of_the_definition_and_nan_stays_nan(advantage, clip_range):
    for ratio in (0.0, 0.5, 0.8, 1.0, 1.2, 3.0, math.inf if advantage else 7.0):
        clipped = min(max(ratio, 1 - clip_range), 1 + clip_range)
        value = clipped_surrogate(th.tensor([ratio]), th.tensor([advantage]), clip_range)
        assert value.item() == pytest.approx(min(ratio * advantage, clipped * advantage))
    assert clipped_surrogate(th.tensor([math.nan]), th.tensor([advantage]), clip_range).isnan()


@pytest.mark.parametrize("zero", [0, 0.0])
def test_a_sum_has_the_weighted_terms_but_for_those_of_weight_zero_which_get_no_gradient(zero):
    x, y, left_out = (th.tensor(value, dtype=th.float64, requires_grad=True) for value in (2.0, 3.0, math.nan))
    total = sum_of(x, weighted(zero, left_out), weighted(0.5, y), weighted(th.tensor(0.0), y))
    assert total.item() == 3.5 and sum_of(x, weighted(zero, left_out)) is x
    assert th.autograd.grad(total, [x, y, left_out], allow_unused=True) == (1.0, 0.5, None)


def test_the_score_function_loss_treats_the_signal_as_a_constant():
    log_prob = th.tensor([-0.1, -0.7], requires_grad=True)
    signal = th.tensor([2.0, -3.0], requires_grad=True)
    score_function(log_prob, signal, th.tensor([0.5, 0.25])).backward()
    assert log_prob.grad.tolist() == [-1.0, 0.75] and signal.grad is None


def test_the_expected_kl_estimate_is_the_kl():
    """Over all actions of a distribution, each weighted by its probability under the old policy."""
    old, new = th.tensor([0.2, 0.5, 0.3], dtype=th.float64), th.tensor([0.4, 0.35, 0.25], dtype=th.float64)
    expected = sum(p * approximate_kl((q / p).log()[None]) for p, q in zip(old, new, strict=True))
    exact = (old * (old / new).log()).sum()
    th.testing.assert_close(expected, exact, rtol=1e-12, atol=0)
    assert approximate_kl(th.tensor([0.3])) > 0 and approximate_kl(th.tensor([-0.3])) > 0


def test_the_kl_estimate_keeps_its_digits_where_the_policy_has_hardly_moved():
    """By its power series; 1 + log r has lost most of them in single precision."""
    log_ratio = 1e-3
    expected = log_ratio**2 / 2 + log_ratio**3 / 6
    assert approximate_kl(th.tensor([log_ratio])).item() == pytest.approx(expected, rel=1e-3)


def test_explained_variance_of_a_perfect_a_constant_and_a_reversed_prediction():
    targets = th.tensor([1.0, 2.0, 4.0])
    assert explained_variance(targets + 3.0, targets).item() == pytest.approx(1.0)
    assert explained_variance(th.zeros(3), targets).item() == pytest.approx(0.0)
    assert explained_variance(-targets, targets).item() == pytest.approx(-3.0)
    assert explained_variance(targets, th.ones(3)).isnan()
