"""
ACER's policy gradient against sums over all actions, quadrature, automatic differentiation and a quadratic programme.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch as th
from scipy.optimize import minimize
from torch.distributions import Normal, kl_divergence

from sb3_pgx.ops.off_policy import (
    categorical_divergence_gradient,
    categorical_gradient,
    dueling,
    gaussian_divergence_gradient,
    gaussian_gradient,
    logits_gradient,
    truncated_weights,
    trust_region,
)

EXACT = dict(rtol=1e-12, atol=1e-12)
CLIPS = [1e-9, 0.5, 1.0, 10.0, math.inf]


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def gradient_of(function, *points):
    leaves = [x.clone().requires_grad_(True) for x in points]
    return th.cat(th.autograd.grad(function(*leaves).sum(), leaves), dim=1)


class Bandits:
    """Several states, each with as many actions: a policy, another one that acts, Q and V."""

    def __init__(self, states=6, actions=4):
        self.logits, behaviour = 2 * random(0, states, actions), 2 * random(1, states, actions)
        self.pi, self.mu = self.logits.softmax(dim=1), behaviour.softmax(dim=1)
        self.q, self.returns = random(2, states, actions), random(3, states)
        self.v = (self.pi * self.q).sum(dim=1)

    def gradient(self, action, clip, returns=None):
        """Of all states, had ``action`` been taken in each of them."""
        actions = th.full((len(self.pi),), action)
        returns = self.q[:, action] if returns is None else returns
        return categorical_gradient(self.pi, self.mu, actions, returns, self.q, self.v, clip)

    def in_logits(self, gradient):
        """What a gradient in the probabilities is in the logits, by automatic differentiation of the softmax."""
        return gradient_of(lambda logits: logits.softmax(dim=1) * gradient, self.logits)


# ------------------------------------------------------------------------------------------------------- Discrete


@pytest.mark.parametrize("clip", CLIPS)
def test_truncation_and_correction_together_are_the_whole_policy_gradient_for_every_clip(clip):
    """Over all actions that may have been taken, weighted with the probability that they were."""
    b = Bandits()
    ratio = b.pi / b.mu
    assert (ratio < 0.5).any() and (ratio > 10).any(), "every clip of the list is to be between some of the ratios"
    expectation = sum(b.mu[:, a, None] * b.gradient(a, clip) for a in range(b.pi.shape[1]))
    expected = gradient_of(lambda logits: logits.softmax(dim=1) * b.q, b.logits)  # of E_π[Q]
    assert expected.norm() > 0.1
    th.testing.assert_close(b.in_logits(expectation), expected, **EXACT)


@pytest.mark.parametrize("clip", CLIPS)
def test_each_actions_gradient_is_that_of_its_weighted_log_probabilities(clip):
    b = Bandits()
    for a in range(b.pi.shape[1]):
        truncated = (b.pi[:, a] / b.mu[:, a]).clamp(max=clip) * (b.returns - b.v)
        share = (b.pi - clip * b.mu).clamp(min=0.0)  # π [1 − c / ρ]₊
        corrections = share * (b.q - b.v[:, None])

        def terms(logits, a=a, truncated=truncated, corrections=corrections):
            log_pi = logits.log_softmax(dim=1)
            return truncated * log_pi[:, a] + (corrections * log_pi).sum(dim=1)

        expected = gradient_of(terms, b.logits)
        th.testing.assert_close(b.in_logits(b.gradient(a, clip, b.returns)), expected, **EXACT)
        th.testing.assert_close(logits_gradient(b.pi, b.gradient(a, clip, b.returns)), expected, **EXACT)


def test_without_correction_a_small_clip_would_be_biased():
    """So that the test of the expectation is one: nothing of it is zero by itself."""
    b = Bandits()
    for clip in (0.5, 1.0):
        ratio = (b.pi / b.mu).clamp(max=clip)
        truncated_alone = gradient_of(
            lambda logits, ratio=ratio: b.mu * ratio * (b.q - b.v[:, None]) * logits.log_softmax(dim=1), b.logits
        )
        assert (truncated_alone - gradient_of(lambda logits: logits.softmax(dim=1) * b.q, b.logits)).norm() > 0.1


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("clip", CLIPS)
def test_actions_that_are_all_but_impossible_leave_everything_finite(clip, dtype):
    """One that is taken has a probability that is not 0, however small; any other one's may be."""
    tiny = 1e-30
    probs = th.tensor([[tiny, 1.0, 0.0], [1.0, tiny, 0.0], [0.0, 1.0, 0.0], [tiny, 1.0, tiny]], dtype=dtype)
    behaviour = th.tensor([[tiny, 1.0, 0.0], [tiny, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, tiny]], dtype=dtype)
    average = th.tensor([[1.0, tiny, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=dtype)
    q, v = th.tensor([[1.0, -2.0, 3.0]] * 4, dtype=dtype), th.tensor([0.5, -1.0, 2.0, 0.0], dtype=dtype)
    returns = th.tensor([3.0, -2.0, 1.0, 4.0], dtype=dtype)
    gradient = categorical_gradient(probs, behaviour, th.zeros(4, dtype=th.long), returns, q, v, clip)
    away = categorical_divergence_gradient(probs, average)
    for step in (gradient, trust_region(gradient, away, 1.0), trust_region(gradient, away, math.inf)):
        assert th.isfinite(step).all()
        assert th.isfinite(probs * step).all() and th.isfinite(logits_gradient(probs, step)).all()


def test_the_divergence_from_the_average_grows_in_the_probabilities_as_automatic_differentiation_says():
    b = Bandits()

    def divergence(p):
        return (b.mu * (b.mu.log() - p.log())).sum(dim=1)  # KL(average‖policy), the average first

    expected = gradient_of(divergence, b.pi)
    th.testing.assert_close(categorical_divergence_gradient(b.pi, b.mu), expected, **EXACT)
    in_logits = gradient_of(lambda logits: divergence(logits.softmax(dim=1)), b.logits)
    th.testing.assert_close(logits_gradient(b.pi, expected), in_logits, **EXACT)


def test_at_the_average_policy_the_trust_region_in_the_probabilities_does_nothing_to_the_logits():
    """It does act on the probabilities, along (1, ..., 1): a direction in which they cannot move."""
    b = Bandits()
    gradient = b.gradient(0, 10.0) + 5.0
    step = trust_region(-gradient, categorical_divergence_gradient(b.pi, b.pi), 1.0)
    assert not th.isclose(step, -gradient).any(dim=1).all()
    th.testing.assert_close(b.in_logits(step), b.in_logits(-gradient), **EXACT)


# ------------------------------------------------------------------------------------------------------- Gaussian


def gaussians(rows=5, dimensions=2):
    """Means and standard deviations of a policy, and of the average one."""
    return [(random(seed, rows, dimensions), (0.5 * random(seed + 1, rows, dimensions)).exp()) for seed in (0, 2)]


def density(mean, log_std, actions):
    return Normal(mean, log_std.exp()).log_prob(actions).sum(dim=-1)


def test_a_gaussians_gradient_is_that_of_its_weighted_log_densities():
    (mean, std), _ = gaussians()
    actions, weights = random(4, 3, 5, 2), random(5, 3, 5)
    both = gradient_of(lambda m, log_std: weights * density(m, log_std, actions), mean, std.log())
    th.testing.assert_close(gaussian_gradient(th.cat([mean, std], 1), actions, weights, True), both, **EXACT)
    th.testing.assert_close(gaussian_gradient(th.cat([mean, std], 1), actions, weights, False), both[:, :2], **EXACT)


def test_the_divergence_from_the_average_grows_with_a_gaussian_as_automatic_differentiation_of_torchs_says():
    (mean, std), average = gaussians()
    both = gradient_of(lambda m, log_std: kl_divergence(Normal(*average), Normal(m, log_std.exp())), mean, std.log())
    arguments = (th.cat([mean, std], 1), th.cat(average, 1))
    th.testing.assert_close(gaussian_divergence_gradient(*arguments, True), both, **EXACT)
    th.testing.assert_close(gaussian_divergence_gradient(*arguments, False), both[:, :2], **EXACT)


@pytest.mark.parametrize("clip", [0.5, 1.0, 5.0, math.inf])
def test_truncation_and_correction_of_a_gaussian_are_the_whole_gradient_by_quadrature(clip):
    """
    E_μ of the truncated term and E_π of the correction, on a grid, against ∇ E_π[Q] in closed form; Q(a) = a² − 3 a + 1.
    """
    mean, std, behaviour_mean, behaviour_std = 0.3, 0.6, -0.4, 0.9
    grid = th.linspace(-12, 12, 40_001, dtype=th.float64)
    pi, mu = (Normal(m, s).log_prob(grid).exp() for m, s in ((mean, std), (behaviour_mean, behaviour_std)))
    ratio = pi / mu
    assert ratio[pi > 1e-6].min() < 0.5 and 1.5 < ratio.max() < 5.0, "some clips are to truncate, others not"
    q = grid.square() - 3 * grid + 1
    v = mean**2 + std**2 - 3 * mean + 1
    truncated, correction = truncated_weights(ratio, ratio, clip) * (q - v)
    width = (grid[1] - grid[0]).item()
    weights = (mu * truncated + pi * correction) * width
    result = gaussian_gradient(th.tensor([[mean, std]], dtype=th.float64), grid[:, None, None], weights[:, None], True)
    expected = th.tensor([[2 * mean - 3, 2 * std**2]], dtype=th.float64)  # ∂/∂m and ∂/∂log σ of m² + σ² − 3 m + 1
    th.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_weights_by_hand():
    ratio, resampled = th.tensor([0.5, 2.0, 9.0]), th.tensor([0.5, 8.0, 2.0])
    assert truncated_weights(ratio, resampled, 2.0).tolist() == [[0.5, 2.0, 2.0], [0.0, 0.75, 0.0]]


# ------------------------------------------------------------------------------------------------------- trust region


def nearest(gradient, away, delta):
    """argmin ½‖g − z‖² subject to kᵀz ≤ δ, by a general solver."""
    scale = np.sum(gradient**2)
    solved = minimize(
        lambda z: 0.5 * np.sum((gradient - z) ** 2) / scale,
        np.zeros_like(gradient),
        jac=lambda z: (z - gradient) / scale,
        constraints={"type": "ineq", "fun": lambda z: delta - away @ z, "jac": lambda z: -away},
        method="SLSQP",
        options=dict(ftol=1e-13),
    )
    assert solved.success
    return solved.x


@pytest.mark.parametrize("delta", [0.0, 0.3, 1.0, 4.0])
def test_the_trust_region_is_the_quadratic_programmes_solution(delta):
    gradient, away = 3 * random(0, 16, 3), random(1, 16, 3)
    step = trust_region(gradient, away, delta)
    expected = np.stack([nearest(g, k, delta) for g, k in zip(gradient.numpy(), away.numpy(), strict=True)])
    th.testing.assert_close(step, th.from_numpy(expected), rtol=1e-7, atol=1e-7)
    bound = (away * gradient).sum(dim=1) > delta
    assert bound.any() and not bound.all(), "rows of both kinds are wanted"


def test_the_trust_region_meets_the_conditions_of_a_minimum():
    gradient, away, delta = 2 * random(2, 50, 4), random(3, 50, 4), 0.5
    step = trust_region(gradient, away, delta)
    slack = delta - (away * step).sum(dim=1)
    multiplier = ((gradient - step) * away).sum(dim=1) / away.square().sum(dim=1)
    th.testing.assert_close(gradient - step, multiplier[:, None] * away, **EXACT)  # stationary
    assert (slack > -1e-12).all() and (multiplier > -1e-12).all()  # feasible, and pushing in one direction only
    th.testing.assert_close(multiplier * slack, th.zeros_like(slack), rtol=0, atol=1e-11)


def test_a_gradient_within_the_trust_region_is_left_as_it_is_bit_for_bit():
    gradient, away = random(0, 20, 3), random(1, 20, 3)
    within = (away * gradient).sum(dim=1) <= 0.2
    assert within.any() and not within.all()
    assert th.equal(trust_region(gradient, away, 0.2)[within], gradient[within])
    assert th.equal(trust_region(gradient, away, math.inf), gradient)
    assert th.equal(trust_region(gradient, th.zeros_like(away), 0.0), gradient)  # at a Gaussian's average policy


def test_delta_bounds_every_row_on_its_own():
    gradient, away = random(0, 6, 3), random(1, 6, 3)
    alone = th.cat([trust_region(g[None], k[None], 0.2) for g, k in zip(gradient, away, strict=True)])
    assert th.equal(trust_region(gradient, away, 0.2), alone)
    assert th.equal(trust_region(gradient.repeat(7, 1), away.repeat(7, 1), 0.2), alone.repeat(7, 1))


def test_mean_and_log_std_are_held_in_one_trust_region_together():
    (mean, std), average = gaussians()
    parameters = th.cat([mean, std], 1)
    gradient = gaussian_gradient(parameters, random(4, 2, 5, 2), 3 * random(5, 2, 5), True)
    away = gaussian_divergence_gradient(parameters, th.cat(average, 1), True)
    step = trust_region(gradient, away, 0.5)
    expected = np.stack([nearest(g, k, 0.5) for g, k in zip(gradient.numpy(), away.numpy(), strict=True)])
    th.testing.assert_close(step, th.from_numpy(expected), rtol=1e-6, atol=1e-6)
    apart = th.cat([trust_region(g, k, 0.5) for g, k in zip(gradient.split(2, 1), away.split(2, 1), strict=True)], 1)
    assert (apart - step).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------------- dueling


def nodes(mean, std):
    """Of Gauss-Hermite quadrature for N(mean, std): exact for polynomials up to the ninth degree."""
    x, weights = np.polynomial.hermite_e.hermegauss(5)
    return [(mean + std * node, weight / math.sqrt(2 * math.pi)) for node, weight in zip(x, weights, strict=True)]


ADVANTAGES = {"linear": lambda a: 2 * a - 5, "quadratic": lambda a: -(a**2) + 3 * a + 1}


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_dueling_networks_q_is_v_on_average_over_actions_and_samples(kind, n):
    advantage, value = ADVANTAGES[kind], th.tensor([0.7], dtype=th.float64)
    total = 0.0
    for (a, weight), *drawn in product(nodes(0.4, 1.3), repeat=n + 1):
        sampled = th.tensor([[advantage(u)] for u, _ in drawn], dtype=th.float64)
        weight = weight * math.prod(w for _, w in drawn)
        total = total + weight * dueling(value, th.tensor([advantage(a)], dtype=th.float64), sampled)
    th.testing.assert_close(total, value, **EXACT)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_the_variance_of_a_dueling_networks_q_falls_with_the_number_of_samples(kind):
    advantage, value, of_action = ADVANTAGES[kind], th.zeros(1, dtype=th.float64), th.ones(1, dtype=th.float64)
    variances = []
    for n in (1, 2, 3):
        moments = th.zeros(2, dtype=th.float64)
        for drawn in product(nodes(0.4, 1.3), repeat=n):
            q = dueling(value, of_action, th.tensor([[advantage(u)] for u, _ in drawn], dtype=th.float64)).item()
            moments += math.prod(w for _, w in drawn) * th.tensor([q, q * q], dtype=th.float64)
        variances.append((moments[1] - moments[0] ** 2).item())
    assert variances[0] > 0.1
    assert variances == pytest.approx([variances[0], variances[0] / 2, variances[0] / 3], rel=1e-9)


def test_a_dueling_networks_q_grows_with_v_as_v_does_and_with_advantages_by_their_difference():
    value, advantage, sampled = random(0, 3), random(1, 3), random(2, 4, 3)
    leaves = [x.requires_grad_(True) for x in (value, advantage, sampled)]
    of_value, of_advantage, of_sampled = th.autograd.grad(dueling(*leaves).sum(), leaves)
    assert th.equal(of_value, th.ones_like(value)) and th.equal(of_advantage, th.ones_like(value))
    assert th.equal(of_sampled, th.full_like(sampled, -0.25))
