"""Baselines and their bias: every batch of a small bandit and of episodes of different lengths is enumerated."""

import itertools

import numpy as np
import pytest
import torch as th
from scipy.optimize import minimize, minimize_scalar

from sb3_pgx.ops.baselines import leave_one_out, mean_baseline, mean_of_others, others

LOGITS = th.tensor([0.3, -0.5, 0.9], dtype=th.float64)
REWARDS = th.tensor([2.0, -1.0, 7.0], dtype=th.float64)


def bandit():
    """Probabilities, scores ∇log π ``[arms, parameters]``, and the exact gradient of the expected reward."""
    logits = LOGITS.clone().requires_grad_()
    probs = logits.softmax(0)
    scores = th.stack([th.autograd.grad(p.log(), logits, retain_graph=True)[0] for p in probs])
    (exact,) = th.autograd.grad((probs * REWARDS).sum(), logits)
    return probs.detach(), scores, exact


def expectation(estimate, n):
    """Expected estimate over all batches of n independent pulls. ``estimate(arms) -> [parameters]``."""
    probs, _, _ = bandit()
    total = th.zeros(3, dtype=th.float64)
    for arms in itertools.product(range(3), repeat=n):
        index = th.tensor(arms)
        total += probs[index].prod() * estimate(index)
    return total


def batch_estimate(baseline):
    _, scores, _ = bandit()

    def estimate(arms):
        returns = REWARDS[arms][None]  # one step, n episodes
        b = baseline(returns, th.ones_like(returns, dtype=th.bool), arms)
        signal = returns.reshape(len(arms), 1) - b.reshape(len(arms), -1)  # one column, or one a parameter
        return (scores[arms] * signal).mean(dim=0)

    return estimate


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_batch_mean_shortens_the_gradient_by_one_over_n_and_leaves_its_direction(n):
    _, _, exact = bandit()
    result = expectation(batch_estimate(lambda r, valid, _: mean_baseline(r, valid)), n)
    th.testing.assert_close(result, (1 - 1 / n) * exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_leave_one_out_is_unbiased(n):
    _, _, exact = bandit()
    result = expectation(batch_estimate(lambda r, valid, _: leave_one_out(r, valid)), n)
    th.testing.assert_close(result, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_with_squared_score_weights_is_unbiased(n):
    _, scores, exact = bandit()
    result = expectation(batch_estimate(lambda r, v, arms: leave_one_out(r, v, scores[arms].square().sum(1)[None])), n)
    th.testing.assert_close(result, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_with_weights_of_every_parameter_is_unbiased(n):
    _, scores, exact = bandit()
    result = expectation(batch_estimate(lambda r, v, arms: leave_one_out(r, v, scores[arms].square()[None])), n)
    th.testing.assert_close(result, exact, rtol=1e-12, atol=1e-12)


def test_standardising_returns_changes_the_direction():
    _, _, exact = bandit()

    def standardised(returns, valid, arms):
        return returns - (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)

    ratios = expectation(batch_estimate(standardised), 4) / exact
    assert ratios.max() / ratios.min() > 1.05


def variance(baseline):
    """Σ over parameters of the variance of one pull's ∇log π (R − b)."""
    probs, scores, exact = bandit()
    terms = scores * (REWARDS[:, None] - baseline)
    return ((probs[:, None] * terms.square()).sum(0) - exact.square()).sum()


def large_sample(weights_of):
    """The baseline that leave-one-out converges to: arms drawn in proportion to their probability, many of them."""
    probs, scores, _ = bandit()
    arms = th.arange(3).repeat_interleave((probs * 200_000).round().long())
    returns = REWARDS[arms][None]
    return leave_one_out(returns, th.ones_like(returns, dtype=th.bool), weights_of(scores[arms])[None])[0]


def test_squared_score_weights_give_the_baseline_of_least_variance():
    best = minimize_scalar(lambda b: float(variance(b)), tol=1e-10).x
    found = large_sample(lambda s: s.square().sum(1))
    assert abs(found[0] - best) < 1e-3
    mean = float((bandit()[0] * REWARDS).sum())
    assert all(variance(best) <= variance(b) for b in [0.0, mean, *np.linspace(-10, 10, 41)])
    assert variance(best) < 0.95 * variance(mean)


def test_weights_of_every_parameter_give_each_its_baseline_of_least_variance():
    best = minimize(lambda b: float(variance(th.tensor(b))), np.zeros(3), tol=1e-12).x
    found = large_sample(lambda s: s.square())[0]
    np.testing.assert_allclose(found.numpy(), best, atol=1e-3)
    assert variance(th.tensor(best)) < variance(large_sample(lambda s: s.square().sum(1))[0])


RAGGED = th.tensor([[5.0, 1.0, 8.0], [3.0, 0.0, 4.0], [6.0, 0.0, 0.0]])  # lengths 3, 1 and 2
ALIVE = th.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0]]).bool()


def test_baselines_compare_episodes_at_the_same_step_by_hand():
    expected = th.tensor([[14 / 3] * 3, [3.5, 0.0, 3.5], [6.0, 0.0, 0.0]])
    th.testing.assert_close(mean_baseline(RAGGED, ALIVE), expected)
    # Nobody else is alive at the last step: the mean of all steps of the others, (1 + 8 + 4) / 3.
    expected = th.tensor([[4.5, 6.5, 3.0], [4.0, 0.0, 3.0], [13 / 3, 0.0, 0.0]])
    th.testing.assert_close(leave_one_out(RAGGED, ALIVE), expected)
    assert mean_of_others(RAGGED, ALIVE)[0].item() == pytest.approx(13 / 3)


def test_the_mean_baseline_is_leave_one_out_shortened_by_the_number_alive():
    """G − mean = (1 − 1/n_t) (G − loo): the bias that the module states, for episodes of different lengths."""
    shortened = (RAGGED - leave_one_out(RAGGED, ALIVE)) * (1 - 1 / ALIVE.sum(1, keepdim=True))
    th.testing.assert_close((RAGGED - mean_baseline(RAGGED, ALIVE))[ALIVE], shortened[ALIVE])


def test_zero_weights_fall_back_on_the_mean_of_the_others():
    weights = th.zeros_like(RAGGED)
    th.testing.assert_close(leave_one_out(RAGGED, ALIVE, weights)[0], mean_of_others(RAGGED, ALIVE))


def test_a_dominant_own_weight_does_not_swamp_the_others():
    returns = th.tensor([[1.0, 2.0, 3.0]])
    weights = th.tensor([[1e12, 1.0, 1.0]])
    assert leave_one_out(returns, th.ones(1, 3, dtype=th.bool), weights)[0, 0].item() == pytest.approx(2.5)


def test_rows_after_an_episodes_end_may_hold_anything():
    spoilt = RAGGED.masked_fill(~ALIVE, float("nan"))
    assert th.equal(leave_one_out(spoilt, ALIVE), leave_one_out(RAGGED, ALIVE))
    assert th.equal(mean_baseline(spoilt, ALIVE), mean_baseline(RAGGED, ALIVE))


def test_the_sum_of_others_leaves_out_exactly_oneself():
    x = th.arange(12.0).reshape(3, 4)
    assert th.equal(others(x, dim=1), x.sum(1, keepdim=True) - x)


def test_leave_one_out_needs_two_episodes():
    with pytest.raises(ValueError, match="two episodes"):
        leave_one_out(RAGGED[:, :1], ALIVE[:, :1])
