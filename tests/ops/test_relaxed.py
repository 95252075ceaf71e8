"""Differentiable samples of choices, against softmax and its derivative."""

import pytest
import torch as th
from scipy import stats

from sb3_pgx.ops.relaxed import gumbel_noise, gumbel_softmax, one_hot_choice

LOGITS = th.tensor([0.0, 1.0, -2.0, 0.5, 1.5], dtype=th.float64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_frequencies_of_samples_are_those_of_softmax_at_every_temperature(temperature):
    th.manual_seed(0)
    n = 100_000
    logits = LOGITS.expand(n, 5)
    samples = gumbel_softmax(logits, gumbel_noise(logits), temperature)
    assert th.equal(samples.sum(dim=1), th.ones(n, dtype=th.float64)) and set(samples.unique().tolist()) == {0.0, 1.0}
    counts = samples.sum(dim=0)
    assert stats.chisquare(counts.numpy(), (n * LOGITS.softmax(0)).numpy()).pvalue > 1e-3


def test_the_noise_is_gumbels():
    th.manual_seed(0)
    noise = gumbel_noise(th.empty(20_000, dtype=th.float64))
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > 1e-3
    assert gumbel_noise(th.empty(3, 2)).dtype == th.float32


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_gradient_is_that_of_the_relaxed_sample(temperature):
    """d softmax(x / T) / dx = (diag(p) − p pᵀ) / T"""
    th.manual_seed(0)
    logits, noise = LOGITS.clone().requires_grad_(True), gumbel_noise(LOGITS)
    weights = th.tensor([3.0, -1.0, 2.0, 0.5, 1.0], dtype=th.float64)
    (gradient,) = th.autograd.grad((weights * gumbel_softmax(logits, noise, temperature)).sum(), logits)
    p = ((LOGITS + noise) / temperature).exp()
    p = p / p.sum()
    th.testing.assert_close(gradient, (th.diag(p) - th.outer(p, p)) @ weights / temperature, rtol=1e-12, atol=1e-12)


def test_a_choice_is_the_unit_vector_of_the_largest_score():
    scores = th.tensor([[[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]]])
    assert one_hot_choice(scores).tolist() == [[[0, 1, 0], [1, 0, 0]]]
