"""Soft values against quadrature and sums, and Stein directions against a closed form and against Stein's identity."""

import math

import numpy as np
import pytest
import torch as th

from sb3_pgx.ops.energy_based import effective_samples, log_tanh_slope, sampled_soft_value, soft_value, stein_direction

WIDE = np.linspace(-12, 12, 200_001)


def integral(x, heights):
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(x)))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
def test_the_soft_value_of_a_finite_number_of_actions_is_the_log_of_the_sum(temperature):
    values = np.array([[0.3, -1.0, 2.0], [5.0, 5.0, 5.0], [-700.0, -701.0, -702.0]])
    direct = [[math.log(sum(math.exp((q - max(row)) / temperature) for q in row)) * temperature + max(row)] for row in values]
    assert soft_value(th.tensor(values), temperature).numpy() == pytest.approx(np.array(direct), rel=1e-12)


def test_the_soft_value_is_between_the_maximum_and_the_maximum_plus_alpha_log_a():
    values = th.linspace(-3, 4, 20, dtype=th.float64).reshape(2, 10)
    for temperature in (1e-3, 0.1, 10.0):
        above = soft_value(values, temperature)[:, 0] - values.max(dim=1).values
        assert (above >= 0).all() and (above <= temperature * math.log(10)).all()


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_sampled_soft_value_of_a_parabola_is_that_of_quadrature(temperature):
    """Q = −½ a² over the whole line has V = α/2 log 2πα. Normal proposals with twice the deviation have bounded weights."""
    exact = temperature * math.log(integral(WIDE, np.exp(-(WIDE**2) / 2 / temperature)))
    assert exact == pytest.approx(temperature / 2 * math.log(2 * math.pi * temperature), abs=1e-9)
    scale = 2 * math.sqrt(temperature)
    grid = (th.arange(200_000, dtype=th.float64) + 0.5) / 200_000
    proposals = th.distributions.Normal(th.tensor(0.0, dtype=th.float64), scale)
    actions = proposals.icdf(grid)[None]  # evenly spread samples: their error falls as 1/K
    estimated = sampled_soft_value(-actions.square() / 2, proposals.log_prob(actions), temperature)
    assert estimated.item() == pytest.approx(exact, abs=1e-5)


def test_with_uniform_proposals_it_is_the_integral_over_the_box():
    """Two action components from −1 to 1: the density is 1/4."""
    side = np.linspace(-1, 1, 2001)
    exact = 0.7 * math.log(integral(side, np.exp(-(side**2) / 2 / 0.7)) ** 2)
    middles = th.tensor((side[1:] + side[:-1]) / 2)
    actions = th.cartesian_prod(middles[::4], middles[::4])
    values = -actions.square().sum(dim=1)[None] / 2
    assert sampled_soft_value(values, -math.log(4), 0.7).item() == pytest.approx(exact, abs=1e-5)


def test_few_samples_give_too_small_values_on_average_and_many_do_not():
    generator = th.Generator().manual_seed(0)
    exact = 0.1 * math.log(integral(side := np.linspace(-1, 1, 2001), np.exp(-(side**2) / 2 / 0.1)))
    errors = []
    for n in (2, 32, 512):
        actions = 2 * th.rand((4000, n), dtype=th.float64, generator=generator) - 1
        errors.append(sampled_soft_value(-actions.square() / 2, -math.log(2), 0.1).mean().item() - exact)
    assert errors[0] < -0.02 and errors[0] < 8 * errors[1] < 8 * 8 * errors[2] + 1e-3
    assert abs(errors[2]) < 1e-3


def test_the_effective_number_of_samples_is_that_of_equally_heavy_ones():
    heavy = th.tensor([[0.0, 0.0, 0.0, -900.0], [1e4, 0.0, 0.0, 0.0], [3.0, 3.0, 3.0, 3.0]], dtype=th.float64)
    assert effective_samples(heavy, 0.5).tolist() == pytest.approx([3.0, 1.0, 4.0], rel=1e-9)
    weights = np.exp(np.array([0.3, -0.2, 1.0]) / 0.7)
    expected = weights.sum() ** 2 / (weights**2).sum()
    assert effective_samples(th.tensor([[0.3, -0.2, 1.0]], dtype=th.float64), 0.7).item() == pytest.approx(expected, rel=1e-9)


def test_the_slope_of_tanh_does_not_overflow():
    x = th.tensor([-400.0, -30.0, -1.0, 0.0, 0.5, 20.0, 400.0], dtype=th.float64)
    near = x.abs() < 15
    assert th.allclose(log_tanh_slope(x)[near], (1 - x.tanh().square()).log()[near], rtol=1e-9)
    assert th.allclose(log_tanh_slope(x)[~near], 2 * math.log(2) - 2 * x[~near].abs(), rtol=1e-12)


# ------------------------------------------------------------------------------------------------ directions


def from_the_definition(particles, scores, points, scales):
    """φ by sums over single particles, with the kernel's gradient from central differences."""
    directions = np.zeros_like(points)
    for row in range(len(points)):
        squares = [np.sum((x - y) ** 2) for x in particles[row] for y in points[row]]
        h = np.sort(squares)[(len(squares) - 1) // 2] / math.log(particles.shape[1] + 1)

        def kernel(x, y, h=h):
            return sum(math.exp(-np.sum((x - y) ** 2) / (c * h)) for c in scales)

        for j, y in enumerate(points[row]):
            for x, score in zip(particles[row], scores[row], strict=True):
                steps = 1e-6 * np.eye(len(x))
                gradient = np.array([(kernel(x + e, y) - kernel(x - e, y)) / 2e-6 for e in steps])
                directions[row, j] += (kernel(x, y) * score + gradient) / len(particles[row])
    return directions


@pytest.mark.parametrize("scales", [(1.0,), (0.1, 0.5, 2.0)])
def test_the_direction_is_that_of_the_definition(scales):
    random = np.random.default_rng(0)
    particles, scores, points = random.normal(size=(2, 5, 3)), random.normal(size=(2, 5, 3)), random.normal(size=(2, 4, 3))
    direction = stein_direction(*map(th.tensor, (particles, scores, points)), scales=scales)
    assert direction.numpy() == pytest.approx(from_the_definition(particles, scores, points, scales), abs=1e-8)


def test_one_particle_has_a_closed_form():
    """With one particle at x and one point at y, h = |x − y|² / log 2, so κ = 1/2 and φ = s/2 + log 2 (y − x) / |x − y|²."""
    x, y, score = (th.tensor(v, dtype=th.float64).reshape(1, 1, 2) for v in ([0.0, 1.0], [3.0, 5.0], [0.4, -2.0]))
    expected = score / 2 + math.log(2) * (y - x) / 25
    assert th.allclose(stein_direction(x, score, y), expected, rtol=1e-12)


def normal_quantiles(mean, deviation, n=4001):
    """Return evenly spread samples of a normal distribution."""
    grid = (th.arange(n, dtype=th.float64) + 0.5) / n
    return th.distributions.Normal(mean, deviation).icdf(grid).reshape(1, -1, 1)


def test_between_normal_distributions_the_direction_has_a_closed_form():
    """
    Particles of N(μ, s²), p = N(0, 1), kernel exp(−(x − y)²/b): Stein's identity for the particles' own distribution gives

        φ(y) = E[κ(x, y) (d log p/dx − d log q/dx)] = E[κ(x, y) (−x + (x − μ)/s²)]

    and with κ a Gaussian in x, the mean is one over N(m, v), 1/v = 1/s² + 2/b, m = v (μ/s² + 2 y/b).
    """
    mean, deviation, y = 0.8, 1.5, th.tensor([[[-1.0], [0.3], [2.0]]], dtype=th.float64)
    x = normal_quantiles(mean, deviation)
    b = (x - y[:, :, 0]).square().median().item() / math.log(len(x[0]) + 1)
    v = 1 / (1 / deviation**2 + 2 / b)
    m = v * (mean / deviation**2 + 2 * y / b)
    weight = (b / (b + 2 * deviation**2)) ** 0.5 * (-((y - mean) ** 2) / (b + 2 * deviation**2)).exp()
    expected = weight * (-m + (m - mean) / deviation**2)
    assert th.allclose(stein_direction(x, -x, y), expected, atol=2e-4) and expected.abs().max() > 0.05


def test_squashed_samples_of_the_density_have_no_direction_and_others_have_one():
    """u is logistic if a = tanh u is uniform: the score of u is −2 a, and the kernel compares a."""
    grid = (th.arange(2000, dtype=th.float64) + 0.5) / 2000
    for bend, least, most in ((1.0, 0.0, 1e-3), (2.0, 0.02, 1.0)):
        a = (2 * grid**bend - 1).reshape(1, -1, 1)  # uniform if not bent
        points = th.tensor([[[-0.9], [0.0], [0.5]]], dtype=th.float64)
        size = stein_direction(a, -2 * a, points, 1 - a.square(), (0.25, 1.0)).abs().max().item()
        assert least <= size <= most


def test_particles_at_one_point_have_finite_directions():
    direction = stein_direction(th.ones(2, 4, 1), th.full((2, 4, 1), 3.0), th.ones(2, 3, 1))
    assert th.allclose(direction, th.full((2, 3, 1), 3.0))
