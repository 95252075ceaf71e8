"""LSTM and GRU on packed rows against torch's networks, run on each sequence alone."""

import pytest
import torch as th
from torch import nn

from sb3_pgx.core.recurrence import GRU, no_state, run_cells, run_operators, run_padded
from sb3_pgx.core.sequences import pack

# Where sequences begin among 23 rows, besides the first one.
PATTERNS = {
    "one sequence": [],
    "single rows": list(range(23)),
    "rising lengths": [1, 3, 6, 10, 15],
    "falling lengths": [9, 16, 20, 22],
    "mixed lengths": [2, 3, 11, 12, 20],
}
RUNS = {"padded": run_padded, "cells": lambda *arguments: run_cells(*arguments)[0]}


def example(kind, pattern, dtype=th.float64, **kwargs):
    """Return a network, the packing of 23 rows, inputs in the order before, and the state before each sequence."""
    th.manual_seed(0)
    network = kind(3, 4, **kwargs).to(dtype)
    begins = th.zeros(23, dtype=th.bool)
    begins[PATTERNS[pattern]] = True
    packing = pack(begins)
    start = tuple(th.randn_like(x).requires_grad_() for x in no_state(network, int(packing.sizes[0])))
    return network, packing, th.randn(23, 3, dtype=dtype, requires_grad=True), start


def one_by_one(network, packing, inputs, start):
    """Return outputs and final hidden states of torch's network on each sequence, in the order of the rows before."""
    length = (packing.sizes[:, None] > th.arange(int(packing.sizes[0]))).sum(dim=0)
    outputs, final = th.empty(23, 4, dtype=inputs.dtype), []
    for k, first in enumerate(packing.firsts().tolist()):
        rows = slice(first, first + int(length[k]))
        state = tuple(x[k][:, None].contiguous() for x in start)
        if isinstance(network, nn.LSTM):
            out, (hidden, _) = network(inputs[rows, None], state)
        else:
            out, hidden = nn.GRU.forward(network, inputs[rows, None], state[0])
        outputs[rows] = out[:, 0]
        final.append(hidden[:, 0])
    return outputs, th.stack(final)


def gradients(outputs, network, inputs, start):
    weights = th.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    given = [*network.parameters(), inputs, *(x for x in start if x.numel())]
    return th.autograd.grad((weights * outputs.square()).sum(), given)


@pytest.mark.parametrize("kwargs", [{}, dict(num_layers=3), dict(bias=False)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", [nn.LSTM, GRU])
def test_outputs_and_gradients_are_those_of_each_sequence_alone(kind, run, pattern, kwargs):
    network, packing, inputs, start = example(kind, pattern, **kwargs)
    expected, _ = one_by_one(network, packing, inputs, start)
    outputs = packing.unpacked(RUNS[run](network, inputs[packing.order], packing.sizes, start))
    th.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        gradients(outputs, network, inputs, start), gradients(expected, network, inputs, start), strict=True
    ):
        th.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("run", [run_cells, run_operators])
@pytest.mark.parametrize("kind", [nn.LSTM, GRU])
def test_the_state_after_a_row_continues_the_sequence(kind, run, pattern):
    """Cut after every row: a step from the state after the row before gives the same."""
    network, packing, inputs, start = example(kind, pattern, num_layers=2)
    outputs, after = run(network, inputs[packing.order], packing.sizes, start)
    before, level = start, 0
    for size in packing.sizes.tolist():
        rows = slice(level, level + size)
        step, _ = run(network, inputs[packing.order[rows]], th.tensor([size]), tuple(x[:size] for x in before))
        th.testing.assert_close(step, outputs[rows], rtol=1e-12, atol=1e-12)
        before, level = tuple(x[rows] for x in after), level + size
    _, final = one_by_one(network, packing, inputs, start)
    last = int(packing.sizes[-1])  # the last level has the last rows of the longest sequences
    th.testing.assert_close(after[0][-last:], final[:last], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("state", ["none", "given"])
def test_a_gru_with_the_interface_of_an_lstm_is_torchs(state):
    th.manual_seed(0)
    ours, theirs = GRU(3, 4, num_layers=2), nn.GRU(3, 4, num_layers=2)
    theirs.load_state_dict(ours.state_dict())
    inputs, hidden, other = th.randn(5, 2, 3), th.randn(2, 2, 4), th.randn(2, 2, 0)
    outputs, (after, passed) = ours(inputs) if state == "none" else ours(inputs, (hidden, other))
    expected, expected_after = theirs(inputs) if state == "none" else theirs(inputs, hidden)
    assert th.equal(outputs, expected) and th.equal(after, expected_after)
    assert state == "none" or passed is other
