"""Kronecker factors against the Fisher matrix from all per-sample gradients, and against loops over a convolution's places."""

import itertools

import pytest
import torch as th
from torch.nn import functional as F

from sb3_pgx.ops.kronecker import (
    average_weight,
    damped_factors,
    fraction_within,
    input_factor,
    inverse,
    output_factor,
    patches,
    quadratic_form,
    with_ones,
)


@pytest.fixture
def draw():
    generator = th.Generator().manual_seed(0)
    return lambda *shape: th.randn(*shape, dtype=th.float64, generator=generator)


def fisher_of(inputs, gradients):
    """The mean over all rows of the outer product of the gradient g āᵀ with itself, in the order of a flattened ``[m, n]``."""
    rows = [th.outer(g, a).flatten() for a, g in zip(inputs, gradients, strict=True)]
    return sum(th.outer(x, x) for x in rows) / len(rows)


def test_the_product_of_the_factors_is_the_fisher_matrix_if_all_inputs_are_the_same(draw):
    inputs, gradients = with_ones(draw(1, 3).expand(7, 3)), draw(7, 2)
    th.testing.assert_close(th.kron(output_factor(gradients), input_factor(inputs)), fisher_of(inputs, gradients))


def test_the_product_of_the_factors_is_the_fisher_matrix_if_inputs_and_gradients_are_independent(draw):
    """Each of four inputs occurs with each of five gradients."""
    pairs = list(itertools.product(draw(4, 3), draw(5, 2)))
    inputs, gradients = (th.stack(x) for x in zip(*pairs, strict=True))
    th.testing.assert_close(th.kron(output_factor(gradients), input_factor(inputs)), fisher_of(inputs, gradients))


def test_without_independence_the_product_is_another_matrix(draw):
    inputs = draw(6, 2)
    assert (th.kron(output_factor(inputs), input_factor(inputs)) - fisher_of(inputs, inputs)).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------------- convolutions

CONVOLUTIONS = [
    dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1)),
    dict(stride=(2, 1), padding=(1, 2), dilation=(1, 1)),
    dict(stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
]


@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_patches_times_weights_are_the_convolution(how, draw):
    images, weight, bias = draw(2, 3, 7, 6), draw(4, 3, 2, 3), draw(4)
    X = th.cat([weight.flatten(start_dim=1), bias[:, None]], dim=1)
    outputs = with_ones(patches(images, (2, 3), **how)) @ X.T  # [B, T, m]
    th.testing.assert_close(outputs.transpose(1, 2), F.conv2d(images, weight, bias, **how).flatten(start_dim=2))


@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_factors_of_a_convolution_are_sums_and_means_over_its_places(how, draw):
    images, weight = draw(3, 2, 6, 7), draw(2, 2, 2, 3)
    rows, columns = (n + 2 * p for n, p in zip(images.shape[2:], how["padding"], strict=True))
    padded = th.zeros(3, 2, rows, columns, dtype=th.float64)
    padded[:, :, how["padding"][0] : rows - how["padding"][0], how["padding"][1] : columns - how["padding"][1]] = images
    (stride_y, stride_x), (gap_y, gap_x) = how["stride"], how["dilation"]
    outputs = F.conv2d(images, weight, **how)
    gradients = draw(*outputs.shape)
    A, G, n_places = 0.0, 0.0, outputs[0, 0].numel()
    for image, of_image in zip(padded, gradients, strict=True):
        for y, x in itertools.product(range(outputs.shape[2]), range(outputs.shape[3])):
            top, left = y * stride_y, x * stride_x
            patch = image[:, top : top + gap_y + 1 : gap_y, left : left + 2 * gap_x + 1 : gap_x].flatten()
            a = th.cat([patch, th.ones(1, dtype=th.float64)])
            A, G = A + th.outer(a, a) / 3, G + th.outer(of_image[:, y, x], of_image[:, y, x]) / 3 / n_places
    th.testing.assert_close(input_factor(with_ones(patches(images, (2, 3), **how))), A)
    th.testing.assert_close(output_factor(gradients.flatten(start_dim=2).transpose(1, 2)), G)


def test_a_convolution_of_a_single_place_has_the_factors_of_the_linear_layer(draw):
    images, gradients = draw(5, 2, 3, 3), draw(5, 4)
    at_places = patches(images, (3, 3), (1, 1), (0, 0), (1, 1))
    th.testing.assert_close(input_factor(at_places), input_factor(images.flatten(start_dim=1)))
    th.testing.assert_close(output_factor(gradients[:, None]), output_factor(gradients))


# ------------------------------------------------------------------------------------------------------- damping, lengths


def spd(draw, n):
    root = draw(n, n)
    return root @ root.T / n


def test_natural_gradient_and_quadratic_form_are_those_of_the_dense_damped_product(draw):
    A, G, D = spd(draw, 3), spd(draw, 2), draw(2, 3)
    damped_A, damped_G = damped_factors(A, G, 0.05)
    dense = th.kron(damped_G, damped_A)
    th.testing.assert_close((inverse(damped_G) @ D @ inverse(damped_A)).flatten(), th.linalg.solve(dense, D.flatten()))
    th.testing.assert_close(quadratic_form(D, damped_A, damped_G), D.flatten() @ dense @ D.flatten())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_damped_product_is_f_plus_lambda_but_for_two_terms_whose_traces_are_equal(scale, draw):
    A, G, damping = spd(draw, 3), scale * spd(draw, 2), 0.05
    damped_A, damped_G = damped_factors(A, G, damping)
    of_A, of_G = th.kron(damped_G - G, A), th.kron(G, damped_A - A)
    expected = th.kron(G, A) + of_A + of_G + damping * th.eye(6, dtype=th.float64)
    th.testing.assert_close(th.kron(damped_G, damped_A), expected)
    th.testing.assert_close(of_A.trace(), of_G.trace())


@pytest.mark.parametrize("factors", [(0, 1), (1, 0), (0, 0)])
def test_factors_that_are_zero_are_damped_by_the_root_of_lambda(factors, draw):
    A, G = factors[0] * spd(draw, 3), factors[1] * spd(draw, 2)
    damped_A, damped_G = damped_factors(A, G, 0.04)
    th.testing.assert_close(damped_A - A, 0.2 * th.eye(3, dtype=th.float64))
    th.testing.assert_close(damped_G - G, 0.2 * th.eye(2, dtype=th.float64))


def test_a_matrix_that_is_not_positive_definite_or_not_finite_has_no_inverse():
    for matrix in (th.diag(th.tensor([1.0, -1.0])), th.full((2, 2), th.nan)):
        with pytest.raises(th.linalg.LinAlgError):
            inverse(matrix)


def test_the_running_average_is_the_mean_until_it_forgets():
    average, numbers = 0.0, [3.0, 5.0, 10.0, 2.0]
    for k, x in enumerate(numbers, start=1):
        average += average_weight(k, 0.75) * (x - average)
        assert average == pytest.approx(sum(numbers[:k]) / k)
    assert average_weight(5, 0.75) == average_weight(1000, 0.75) == 0.25


@pytest.mark.parametrize("bound", [0.0, 0.01, 1.0])
def test_a_step_is_shortened_to_its_bound_and_never_lengthened(bound):
    for quadratic in (0.0, 1e-3, 0.5, 1e6):
        c = fraction_within(quadratic, bound)
        assert 0 <= c <= 1 and c**2 * quadratic / 2 <= bound * (1 + 1e-12)
        assert c == 1 or c**2 * quadratic / 2 == pytest.approx(bound)
