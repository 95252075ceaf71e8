"""The clipped surrogate and the KL estimate against their definitions."""

import pytest
import torch as th

from sb3_pgx.ops.metrics import approximate_kl, explained_variance
from sb3_pgx.ops.objectives import clipped_surrogate, score_function


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


def test_explained_variance_of_a_perfect_a_constant_and_a_reversed_prediction():
    targets = th.tensor([1.0, 2.0, 4.0])
    assert explained_variance(targets + 3.0, targets).item() == pytest.approx(1.0)
    assert explained_variance(th.zeros(3), targets).item() == pytest.approx(0.0)
    assert explained_variance(-targets, targets).item() == pytest.approx(-3.0)
    assert explained_variance(targets, th.ones(3)).isnan()
