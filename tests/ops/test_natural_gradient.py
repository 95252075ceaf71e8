"""Products, solutions, step lengths and line searches against dense linear algebra, in float64 where nothing else is said."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from scipy.optimize import brentq
from torch.distributions import Bernoulli, Categorical, Normal
from torch.func import grad, hessian, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_pgx.ops.divergences import (
    fisher_bernoulli,
    fisher_categorical,
    fisher_gaussian,
    kl_bernoulli,
    kl_categorical,
    kl_gaussian,
)
from sb3_pgx.ops.natural_gradient import (
    LineSearch,
    backtracking,
    capped_step_length,
    conjugate_gradient,
    damped,
    gauss_newton_product,
    kl_step_length,
)

EXACT = dict(rtol=1e-9, atol=1e-11)


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def dense(product, size):
    """The matrix of a product, one column a unit vector."""
    return th.stack([product(unit) for unit in th.eye(size, dtype=th.float64)], dim=1)


# ------------------------------------------------------------------------------------------------------- products

STATES = random(0, 6, 3)
OUTPUTS = 4


def outputs(theta):
    """A network of two hidden units: θ ``[20]`` -> ``[6, 4]``."""
    w1, b1, w2, b2 = theta.split([6, 2, 2 * OUTPUTS, OUTPUTS])
    return (STATES @ w1.view(3, 2) + b1).tanh() @ w2.view(2, OUTPUTS) + b2


def positive_outputs(theta):
    """The same with means and standard deviations of two dimensions for outputs."""
    mean, log_std = outputs(theta).chunk(2, dim=1)
    return th.cat([mean, log_std.exp()], dim=1)


THETA = 0.7 * random(1, 20)
METRICS = th.stack([m @ m.T for m in random(2, 6, OUTPUTS, OUTPUTS)])  # one a state, [B, K, K]


def product_with(theta, v):
    return gauss_newton_product(outputs, theta, lambda t: th.einsum("bij,bj->bi", METRICS, t))(v)


def gauss_newton_matrix(theta):
    J = jacrev(outputs)(theta)  # [B, K, P]
    return th.einsum("bkp,bkl,blq->pq", J, METRICS, J) / len(J)


def test_the_product_is_that_with_the_mean_of_jacobians_around_metrics():
    expected = gauss_newton_matrix(THETA)
    th.testing.assert_close(dense(lambda v: product_with(THETA, v), 20), expected, **EXACT)
    by_vmap = vmap(lambda v: product_with(THETA, v))(th.eye(20, dtype=th.float64))
    th.testing.assert_close(by_vmap, expected, **EXACT)
    with th.no_grad():
        th.testing.assert_close(product_with(THETA, expected[0]), expected @ expected[0], **EXACT)


def test_a_traced_product_holds_for_other_parameters_and_vectors_than_it_was_traced_with():
    traced = make_fx(product_with)(THETA, random(3, 20))
    theta, v = random(4, 20), random(5, 20)
    th.testing.assert_close(traced(theta, v), gauss_newton_matrix(theta) @ v, **EXACT)


def test_damping_adds_lambda_v():
    expected = gauss_newton_matrix(THETA) + 0.3 * th.eye(20, dtype=th.float64)
    th.testing.assert_close(dense(damped(lambda v: product_with(THETA, v), 0.3), 20), expected, **EXACT)


SIZES = {"Categorical": [4], "MultiCategorical": [2, 2]}
POLICIES = {
    "Categorical": (outputs, kl_categorical, fisher_categorical),
    "MultiCategorical": (
        outputs,
        lambda p, q: kl_categorical(p, q, [2, 2]),
        lambda logits, tangents: fisher_categorical(logits, tangents, [2, 2]),
    ),
    "Bernoulli": (outputs, kl_bernoulli, fisher_bernoulli),
    "Gaussian": (positive_outputs, kl_gaussian, fisher_gaussian),
}


def log_prob(kind, parameters, actions):
    """Parameters ``[B, 4]``, actions ``[A, B, dimensions]`` -> ``[A, B]``."""
    if kind == "Gaussian":
        return Normal(*parameters.chunk(2, dim=1), validate_args=False).log_prob(actions).sum(-1)
    if kind == "Bernoulli":
        return Bernoulli(logits=parameters, validate_args=False).log_prob(actions).sum(-1)
    parts = zip(parameters.split(SIZES[kind], dim=1), actions.unbind(-1), strict=True)
    return sum(Categorical(logits=part, validate_args=False).log_prob(a) for part, a in parts)


def actions_and_weights(kind, parameters):
    """Every action of every state with its probability; for the Gaussian, the nodes of a quadrature exact to degree 9."""
    if kind == "Gaussian":
        nodes, weights = (th.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(5))
        mean, std = parameters.chunk(2, dim=1)
        weights = th.cartesian_prod(weights, weights).prod(dim=1) / (2 * math.pi)
        return mean + std * th.cartesian_prod(nodes, nodes)[:, None], weights[:, None].expand(-1, len(parameters))
    ranges = [range(n) for n in SIZES[kind]] if kind in SIZES else [range(2)] * OUTPUTS
    actions = th.tensor(list(itertools.product(*ranges)), dtype=th.float64)[:, None].expand(-1, len(parameters), -1)
    return actions, log_prob(kind, parameters, actions).exp()


def fisher_product(function, metric, theta=THETA):
    parameters = function(theta)
    return gauss_newton_product(function, theta, lambda tangents: metric(parameters, tangents))


@pytest.mark.parametrize("kind", POLICIES)
def test_with_a_fisher_metric_the_product_is_that_with_the_mean_outer_product_of_scores(kind):
    """E_s E_a[∇log π ∇log πᵀ], the actions enumerated."""
    function, _, metric = POLICIES[kind]
    parameters = function(THETA)
    actions, weights = actions_and_weights(kind, parameters)
    scores = jacrev(lambda theta: log_prob(kind, function(theta), actions))(THETA)  # [A, B, P]
    expected = th.einsum("ab,abp,abq->pq", weights, scores, scores) / len(parameters)
    th.testing.assert_close(dense(fisher_product(function, metric), 20), expected, **EXACT)
    assert expected.norm() > 0.1


@pytest.mark.parametrize("kind", POLICIES)
def test_with_a_fisher_metric_the_product_is_that_with_the_hessian_of_the_mean_kl_in_either_direction(kind):
    function, kl, metric = POLICIES[kind]
    matrix, old = dense(fisher_product(function, metric), 20), function(THETA)
    th.testing.assert_close(matrix, hessian(lambda theta: kl(old, function(theta)).mean())(THETA), **EXACT)
    th.testing.assert_close(matrix, hessian(lambda theta: kl(function(theta), old).mean())(THETA), **EXACT)


# ------------------------------------------------------------------------------------------------------- conjugate gradient

ROOT = random(6, 7, 7)
SPD = ROOT @ ROOT.T + 0.5 * th.eye(7)
B = random(7, 7)


def by(matrix):
    return lambda v: matrix @ v


@pytest.mark.parametrize("dtype, tolerance", [(th.float64, 1e-8), (th.float32, 1e-3)])
@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
def test_as_many_steps_as_dimensions_solve_the_system_whatever_the_size_of_b(dtype, tolerance, size):
    A, b = SPD.to(dtype), (size * B).to(dtype)
    solution = conjugate_gradient(by(A), b, max_steps=7, tolerance=0.0)
    assert solution.x.dtype == dtype and solution.steps == 7
    expected = th.linalg.solve(SPD, B)
    th.testing.assert_close(solution.x / size, expected.to(dtype), rtol=tolerance, atol=tolerance)
    assert solution.curvature / size**2 == pytest.approx((expected @ SPD @ expected).item(), rel=tolerance)


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_stopped_early_it_is_the_best_of_its_krylov_space_and_reports_its_residual_and_curvature(steps):
    """The minimiser of ½ xᵀAx − bᵀx over the span of b, Ab, …, by a dense solution in an orthonormal basis."""
    Q = th.linalg.qr(th.stack([th.linalg.matrix_power(SPD, k) @ B for k in range(steps)], dim=1)).Q
    best = Q @ th.linalg.solve(Q.T @ SPD @ Q, Q.T @ B)
    solution = conjugate_gradient(by(SPD), B, max_steps=steps, tolerance=0.0)
    assert (solution.steps, solution.stopped_by) == (steps, "max_steps")
    th.testing.assert_close(solution.x, best, **EXACT)
    assert solution.residual == pytest.approx(((B - SPD @ best).norm() / B.norm()).item(), rel=1e-8)
    assert solution.curvature == pytest.approx((best @ SPD @ best).item(), rel=1e-10)


def test_in_float32_the_curvature_and_the_residual_outlast_the_orthogonality_of_the_residuals():
    by_b = []
    for seed in range(10):
        Q = th.linalg.qr(random(seed, 50, 50)).Q
        A, b = ((Q * th.logspace(0, -4, 50)) @ Q.T).float(), random(100 + seed, 50).float()
        solution = conjugate_gradient(by(A), b, max_steps=40, tolerance=0.0)
        A, b, x = A.double(), b.double(), solution.x.double()
        exact = (x @ A @ x).item()
        assert solution.curvature == pytest.approx(exact, rel=1e-5)
        assert solution.residual == pytest.approx(((b - A @ x).norm() / b.norm()).item(), rel=1e-3)
        by_b.append(abs((x @ b).item() / exact - 1))  # 0 if x were orthogonal to the residual
    assert max(by_b) > 1e-4, "the problems are too easy for float32 to tell"


@pytest.mark.parametrize("size", [1.0, 1e6])
@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-3])
def test_it_stops_with_the_first_residual_within_the_tolerance_relative_to_b(tolerance, size):
    solution = conjugate_gradient(by(SPD), size * B, max_steps=100, tolerance=tolerance)
    before = conjugate_gradient(by(SPD), size * B, max_steps=solution.steps - 1, tolerance=0.0)
    assert solution.stopped_by == "tolerance"
    assert solution.residual <= tolerance < before.residual


def test_along_an_eigenvector_one_step_meets_even_a_tolerance_of_zero():
    solution = conjugate_gradient(lambda v: 2 * v, B, max_steps=100, tolerance=0.0)
    assert (solution.residual, solution.steps, solution.stopped_by) == (0.0, 1, "tolerance")


def test_nothing_to_solve_takes_no_product():
    x, *rest = conjugate_gradient(None, th.zeros(3), max_steps=10, tolerance=0.0)
    assert x.tolist() == [0.0, 0.0, 0.0] and rest == [0.0, 0.0, 0, "tolerance"]


@pytest.mark.parametrize("factor", [-1.0, 0.0, math.nan, math.inf, 1.5e308, 1e-320])
def test_without_a_curvature_along_b_that_can_be_divided_by_the_solution_is_zero(factor):
    b = th.tensor([2.0, 1.0], dtype=th.float64)
    x, *rest = conjugate_gradient(lambda v: factor * v, b, max_steps=10, tolerance=1e-10)
    assert x.tolist() == [0.0, 0.0] and rest == [1.0, 0.0, 0, "curvature"]


def test_a_direction_of_negative_curvature_ends_it_with_the_solution_so_far():
    """By hand, A = diag(1, −1), b = (2, 1): x₁ = 5/3 b, r₁ = (−4/3, 8/3), then pᵀAp = (20² − 40²) / 81 < 0."""
    A, b = th.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=th.float64), th.tensor([2.0, 1.0], dtype=th.float64)
    solution = conjugate_gradient(by(A), b, max_steps=10, tolerance=1e-10)
    assert solution.x.tolist() == pytest.approx([10 / 3, 5 / 3], rel=1e-14)
    assert solution.residual == pytest.approx(4 / 3, rel=1e-14)
    assert solution.curvature == pytest.approx(75 / 9, rel=1e-14)
    assert (solution.steps, solution.stopped_by) == (1, "curvature")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_product_that_is_not_finite_ends_it_with_the_solution_so_far(value):
    diagonal, b = th.tensor([1.0, 2.0], dtype=th.float64), th.tensor([2.0, 1.0], dtype=th.float64)
    factors = iter([1.0, value])
    solution = conjugate_gradient(lambda v: next(factors) * diagonal * v, b, max_steps=10, tolerance=1e-10)
    assert solution.x.tolist() == pytest.approx([5 / 3, 5 / 6], rel=1e-14)  # ‖b‖² / bᵀAb = 5 / 6
    assert (solution.steps, solution.stopped_by) == (1, "curvature")


def test_a_right_hand_side_that_is_not_finite_moves_nothing():
    solution = conjugate_gradient(by(SPD), B / th.tensor([0.0, *range(1, 7)]), max_steps=10, tolerance=1e-10)
    assert not solution.x.any() and (solution.steps, solution.stopped_by) == (0, "curvature")


# ------------------------------------------------------------------------------------------------------- the policy's step

LINEAR_THETA = 0.5 * random(8, 8)


def linear_gaussian(theta):
    """Means linear in the state, standard deviations of their own: θ ``[8]`` -> ``[6, 4]``."""
    weights, log_std = theta.split([6, 2])
    mean = STATES @ weights.view(3, 2)
    return th.cat([mean, log_std.exp().expand_as(mean)], dim=1)


def natural_gradient(function, theta, gradient, steps=8):
    return conjugate_gradient(fisher_product(function, fisher_gaussian, theta), gradient, steps, tolerance=0.0)


def test_the_natural_step_is_the_same_in_other_coordinates():
    """θ = M ψ: M F_ψ⁻¹ g_ψ = F_θ⁻¹ g_θ, where the plain gradient's step M g_ψ = M Mᵀ g_θ is another one."""
    M, g = th.eye(8) + 0.3 * random(9, 8, 8), random(10, 8)
    step = natural_gradient(linear_gaussian, LINEAR_THETA, g).x
    psi = th.linalg.solve(M, LINEAR_THETA)
    other = natural_gradient(lambda psi: linear_gaussian(M @ psi), psi, M.T @ g).x
    th.testing.assert_close(M @ other, step, rtol=1e-8, atol=1e-10)
    assert (M @ M.T @ g - g).norm() > 0.5 * g.norm()


@pytest.mark.parametrize("steps", [2, 8])
def test_a_step_of_the_kl_step_length_has_the_kl_that_was_asked_for_to_second_order(steps):
    solution = natural_gradient(linear_gaussian, LINEAR_THETA, random(10, 8), steps)
    F = dense(fisher_product(linear_gaussian, fisher_gaussian, LINEAR_THETA), 8)
    for delta in (0.01, 1e-8):
        change = kl_step_length(solution.curvature, delta) * solution.x
        assert (0.5 * change @ F @ change).item() == pytest.approx(delta, rel=1e-10, abs=0)
    divergence = kl_gaussian(linear_gaussian(LINEAR_THETA), linear_gaussian(LINEAR_THETA + change)).mean()
    assert divergence.item() == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan])
def test_without_curvature_there_is_no_step(curvature):
    assert kl_step_length(curvature, 0.01) == 0.0
    assert capped_step_length(curvature, 0.01, 1.0) == 0.0


# ------------------------------------------------------------------------------------------------------- the critic's step

FEATURES, OLD = random(11, 40, 5), random(12, 5)
TARGETS = 10.0 * (FEATURES @ random(13, 5) + 0.5 * random(14, 40))
VARIANCE = (FEATURES @ OLD - TARGETS).square().mean().item()


def step_of_the_critic(epsilon):
    def values(theta):
        return (FEATURES @ theta)[:, None]

    g = grad(lambda theta: (values(theta)[:, 0] - TARGETS).square().mean())(OLD)
    solution = conjugate_gradient(gauss_newton_product(values, OLD, lambda t: t), -g, 5, tolerance=0.0)
    return OLD + capped_step_length(solution.curvature, epsilon, VARIANCE) * solution.x


def distance(theta):
    """mean (V − V_old)² / (2 σ²)."""
    return ((FEATURES @ (theta - OLD)).square().mean() / (2 * VARIANCE)).item()


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.1])
def test_a_linear_critics_step_solves_least_squares_within_the_trust_region(epsilon):
    """Dense: mean (V − V̂)² + μ mean (V − V_old)² by least squares, with the μ for which the constraint is met exactly."""

    def penalised(mu):
        rows = th.cat([FEATURES, mu**0.5 * FEATURES])
        return th.linalg.lstsq(rows, th.cat([TARGETS, mu**0.5 * FEATURES @ OLD])).solution

    mu = brentq(lambda mu: distance(penalised(mu)) / epsilon - 1, 0.0, 1e4, xtol=1e-13, rtol=1e-14)
    assert mu > 0.1  # the constraint is active
    theta = step_of_the_critic(epsilon)
    th.testing.assert_close(theta, penalised(mu), rtol=1e-8, atol=1e-10)
    assert distance(theta) == pytest.approx(epsilon, rel=1e-10)


@pytest.mark.parametrize("epsilon", [0.5, 100.0])
def test_where_least_squares_lie_within_the_trust_region_a_linear_critics_step_ends_there(epsilon):
    expected = th.linalg.lstsq(FEATURES, TARGETS).solution
    assert distance(expected) < epsilon
    th.testing.assert_close(step_of_the_critic(epsilon), expected, **EXACT)


def test_a_critic_without_error_takes_no_step():
    assert capped_step_length(1.0, 0.01, 0.0) == 0.0


# ------------------------------------------------------------------------------------------------------- line search

GOOD, WORSE, FAR = (0.3, 0.01), (-0.1, 0.001), (0.5, 0.02)


@pytest.mark.parametrize(
    "measured, expected",
    [
        ([GOOD], LineSearch(1.0, *GOOD, tried=1)),  # divergence exactly at the limit
        ([FAR, WORSE, GOOD], LineSearch(0.25, *GOOD, tried=3)),
        ([(0.0, 0.0), FAR, WORSE, (0.2, 0.005)], LineSearch(0.125, 0.2, 0.005, tried=4)),  # equal is not better
        ([WORSE, WORSE, WORSE, FAR], LineSearch(0.0, *FAR, tried=4)),
        ([(math.nan, 0.0), (math.inf, 0.0), (0.1, math.nan), GOOD], LineSearch(0.125, *GOOD, tried=4)),
    ],
)
def test_backtracking_accepts_the_first_scale_that_improves_within_the_limit(measured, expected):
    scales = []

    def measure(scale):
        scales.append(scale)
        return measured[len(scales) - 1]

    result = backtracking(measure, shrink=0.5, max_steps=4, limit=0.01)
    assert result == expected and result.accepted == (expected.scale > 0)
    assert scales == [1.0, 0.5, 0.25, 0.125][: expected.tried]


@pytest.mark.parametrize("divergence", [math.inf, math.nan])
def test_even_without_a_limit_a_divergence_that_is_not_finite_is_never_accepted(divergence):
    assert not backtracking(lambda scale: (1.0, divergence), shrink=0.8, max_steps=2, limit=math.inf).accepted
