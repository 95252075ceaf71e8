"""The kernel of recurrent networks in compiled graphs against torch's networks, on one sequence at a time, in float64."""

import shutil

import pytest
import torch as th
from selection import mostly_slow
from support.sequences import CELLS, PATTERNS, Example, by_operators

from sb3_pgx.engine import kept_graphs
from sb3_pgx.engine.compiler import compile_function

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
# Fewer numbers than a vector instruction takes, more, and several times as many as two take.
WIDTHS = (1, 5, 16, 37, 64)
ALL_CELLS = pytest.mark.parametrize("cell", mostly_slow(CELLS, ["lstm"]))


@pytest.fixture(scope="module")
def kernels():
    """Return a compiled function of the examples of one cell, all widths in one graph."""
    made = {}

    def run(examples):
        arguments = [x for example in examples for x in example.arguments(th.float32)]
        n = len(arguments) // len(examples)

        def function(*tensors):
            return tuple(x for i in range(0, len(tensors), n) for x in by_operators(*tensors[i : i + n]))

        if examples[0].cell not in made:
            made[examples[0].cell] = compile_function(function, arguments)
        results = made[examples[0].cell](arguments)
        n_results = len(results) // len(examples)
        return [results[i : i + n_results] for i in range(0, len(results), n_results)]

    return run


@pytest.mark.parametrize("pattern", PATTERNS)
@ALL_CELLS
def test_one_graph_runs_all_patterns_of_sequences(cell, pattern, kernels):
    examples = [Example(cell, width, pattern) for width in WIDTHS]
    for example, results in zip(examples, kernels(examples), strict=True):
        for ours, exact in zip(results, example.one_by_one(), strict=True):
            assert (ours - exact).abs().max() < 2e-6 * (1 + exact.abs().max())


@ALL_CELLS
def test_saturated_gates_are_right(cell, kernels):
    """Where tanh and the logistic function are nearly constant, rounding the sums before them is what is wrong."""
    examples = [Example(cell, width, "single rows", scale=30.0) for width in WIDTHS]
    for example, (ours, *_) in zip(examples, kernels(examples), strict=True):
        plain, *_ = by_operators(*example.arguments(th.float32))
        exact, *_ = example.one_by_one()
        assert (ours - exact).abs().max() < 1e-6 + 3 * (plain - exact).abs().max()


@ALL_CELLS
def test_what_is_no_number_stays_so(cell, kernels):
    examples = [Example(cell, width, "one sequence") for width in WIDTHS]
    for example in examples:
        example.inputs[11, 0] = th.nan
    for outputs, tangents, *gradients in kernels(examples):
        assert outputs[:11].isfinite().all() and outputs[11:].isnan().all()
        assert tangents[:11].isfinite().all() and tangents[11:].isnan().all()
        assert all(x.isnan().any() for x in gradients)


@pytest.mark.slow
def test_a_graph_with_a_kernel_is_kept_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setenv(kept_graphs.VARIABLE, str(tmp_path))
    arguments, announced = Example("gru", 4, "mixed lengths").arguments(th.float32), []
    made = compile_function(by_operators, arguments, announced.append)
    assert len(kept_graphs.graphs(tmp_path)) == len(announced) == 1
    loaded = compile_function(by_operators, arguments, announced.append)
    assert len(announced) == 1
    for other in PATTERNS:
        arguments = Example("gru", 4, other).arguments(th.float32)
        assert all(map(th.equal, made(arguments), loaded(arguments)))
