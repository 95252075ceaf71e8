"""The operators for recurrent networks against torch's own networks, on one sequence at a time, in float64."""

import pytest
import torch as th
from support.sequences import CELLS, PATTERNS, RANDOM_PATTERNS, Example, by_operators
from torch.library import opcheck

from sb3_pgx.ops.recurrence import gru, gru_backward, gru_forward, gru_tangent, lstm, lstm_backward, lstm_forward, lstm_tangent

CHECKS = ("test_schema", "test_faketensor")


@pytest.mark.parametrize("pattern", [*PATTERNS, *RANDOM_PATTERNS])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_tangents_and_gradients_are_those_of_torchs_networks(cell, pattern):
    example = Example(cell, 5, pattern)
    for ours, theirs in zip(by_operators(*example.arguments()), example.one_by_one(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_compiler_is_told_the_right_shapes_and_that_nothing_is_changed():
    n_rows, width, sizes = 6, 3, th.tensor([3, 2, 1, 0, 0, 0])
    state, fed, weights = th.rand(n_rows, width), th.rand(n_rows, 4 * width), th.rand(4 * width, width)
    record = lstm_forward(fed, weights, state, state, sizes)
    opcheck(th.ops.sb3_pgx.lstm_forward, (fed, weights, state, state, sizes), test_utils=CHECKS)
    opcheck(th.ops.sb3_pgx.lstm_backward, (state, record, weights, state, sizes), test_utils=CHECKS)
    assert lstm_backward(state, record, weights, state, sizes).shape == (n_rows, 4 * width)
    opcheck(th.ops.sb3_pgx.lstm_tangent, (fed, record, weights, state, sizes), test_utils=CHECKS)
    assert lstm_tangent(fed, record, weights, state, sizes).shape == (n_rows, width)

    fed, weights, bias = th.rand(n_rows, 3 * width), th.rand(3 * width, width), th.rand(3 * width)
    record = gru_forward(fed, weights, bias, state, sizes)
    opcheck(th.ops.sb3_pgx.gru_forward, (fed, weights, bias, state, sizes), test_utils=CHECKS)
    opcheck(th.ops.sb3_pgx.gru_backward, (state, record, weights, sizes), test_utils=CHECKS)
    assert gru_backward(state, record, weights, sizes).shape == (n_rows, 4 * width)
    tangents = th.rand(n_rows, 4 * width)
    opcheck(th.ops.sb3_pgx.gru_tangent, (tangents, record, weights, sizes), test_utils=CHECKS)
    assert gru_tangent(tangents, record, weights, sizes).shape == (n_rows, width)


@pytest.mark.parametrize("cell", CELLS)
def test_a_second_derivative_in_the_parameters_is_refused_instead_of_wrong(cell):
    """The operators have tangents, which are linear in their directions, but no curvature."""
    fed, state, sizes = th.rand(3, 8 if cell == "lstm" else 6, requires_grad=True), th.rand(3, 2), th.tensor([2, 1])
    weights = th.rand(fed.shape[1], 2, requires_grad=True)
    outputs = lstm(fed, weights, state, state, sizes)[0] if cell == "lstm" else gru(fed, weights, weights[:, 0], state, sizes)
    (gradient,) = th.autograd.grad(outputs.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="in the gradient of the outputs only"):
        th.autograd.grad(gradient.sum(), weights)
