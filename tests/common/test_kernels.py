"""What the compiler's graphs are rewritten to, and how near it is."""

import numpy as np
import pytest
import torch as th
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_pgx.common.compiling import compile_function
from sb3_pgx.common.kernels import SMALL_PRODUCT, CpuKernels, rational_tanh

MANY = SMALL_PRODUCT[0] + 1  # rows
WEIGHTS = th.tensor([[1.0, 0.0], [0.0, -9.0], [-4.0, 1.0]])
INPUTS = [th.tensor([10.0, 20.0]), th.tensor([[1.0, 2.0, 3.0]]).repeat(MANY, 1), WEIGHTS]


def rewritten(function, *inputs):
    """The graph of a function after the pass, and the names of its operations."""
    graph = make_fx(function, tracing_mode="fake")(*inputs)  # as the compiler has it
    CpuKernels()(graph.graph)
    graph.recompile()
    return graph, [node.target.name() for node in graph.graph.nodes if node.op == "call_function"]


def test_the_rational_function_is_within_what_is_said_of_it():
    small, around = 10.0 ** th.linspace(-37, 0, 50_001), th.linspace(0, 12, 500_001)
    x = th.cat([small, around[1:], -small, -around[1:]])
    result, exact = rational_tanh(x).double(), x.double().tanh()
    assert (result / exact - 1).abs().max() < 4e-7
    assert result.abs().max() <= 1.0
    assert th.equal(rational_tanh(-x), -rational_tanh(x))
    x = x[x.abs() <= 8].double()
    assert (rational_tanh(x) / x.tanh() - 1).abs().max() < 7e-9, "without rounding"


def test_biases_are_added_apart_from_products_but_for_those_with_factors():
    def function(*inputs):
        return th.addmm(*inputs) * 3, th.addmm(*inputs, beta=2.0)

    graph, operations = rewritten(function, *INPUTS)
    assert operations == ["aten::mm", "aten::add.Tensor", "aten::mul.Tensor", "aten::addmm"]
    tripled, doubled = graph(*INPUTS)
    assert (tripled.tolist(), doubled.tolist()) == ([[-3.0, 15.0]] * MANY, [[9.0, 25.0]] * MANY)


def test_outer_products_are_taken_element_by_element():
    column, row = th.tensor([[1.0], [-4.0]]), th.tensor([[2.0, -3.0, 0.5]])
    graph, operations = rewritten(lambda a, b: a @ b, column, row)
    assert operations == ["aten::mul.Tensor"]
    assert graph(column, row).tolist() == [[2.0, -3.0, 0.5], [-8.0, 12.0, -2.0]]


def test_small_products_are_sums_and_no_others():
    def operations(rows, inner, columns):
        return rewritten(th.mm, th.empty(rows, inner), th.empty(inner, columns))[1]

    assert {"aten::mul.Tensor", "aten::sum.dim_IntList"} < set(operations(*SMALL_PRODUCT))
    for i in range(3):
        larger = [size + (i == j) for j, size in enumerate(SMALL_PRODUCT)]
        assert operations(*larger) == ["aten::mm"]
    graph, _ = rewritten(th.mm, INPUTS[1][:2], WEIGHTS)
    assert graph(INPUTS[1][:2], WEIGHTS).tolist() == [[-11.0, -15.0]] * 2


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[2:10, 3:20],
        lambda x: x[:17, 5:13].T,
        lambda x: x[4:5, :17].expand(8, 17),
        lambda x: x.view(-1, 17, 2)[:8, :, 1],
        lambda x: x[2:10, 3:20].tanh(),
    ],
)
def test_small_products_take_any_rows_and_any_weights(part):
    """Parts of what is in memory, in any order."""
    x, weights = th.randn(20, 34), th.randn(30, 17)
    (result,) = compile_function(lambda x, weights: (part(x) @ weights[7:28].T,), [x, weights])([x, weights])
    th.testing.assert_close(result.double(), part(x.double()) @ weights[7:28].double().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "activation",
    [
        lambda bias, rows, weights: th.addmm(bias, rows, weights).tanh(),
        lambda bias, rows, weights: (bias + (rows @ weights).view(MANY, 1, 2)).tanh(),
        lambda bias, rows, weights: (th.addmm(bias, rows, weights) + rows @ weights).tanh(),
    ],
)
def test_the_tanh_of_a_layer_is_rational(activation):
    inputs = [x / 20 for x in INPUTS]
    graph, operations = rewritten(activation, *inputs)
    assert "aten::tanh" not in operations and "aten::div.Tensor" in operations
    np.testing.assert_allclose(graph(*inputs), activation(*inputs), rtol=1e-6)


@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16, th.float64])
def test_other_types_stay_as_they_are(dtype):
    inputs = [x.to(dtype) for x in INPUTS]
    assert rewritten(lambda *x: th.addmm(*x).tanh(), *inputs)[1] == ["aten::addmm", "aten::tanh"]
    assert rewritten(lambda row: row.T @ row, inputs[1])[1][-1] == "aten::mm"


def test_the_density_of_a_squashed_action_keeps_its_tanh():
    actions = th.linspace(-0.999999, 0.999999, 50)
    _, operations = rewritten(lambda x: (1 - x.atanh().tanh() ** 2 + 1e-6).log(), actions)
    assert operations.count("aten::tanh") == 1 and "aten::div.Tensor" not in operations


def test_the_compiler_runs_the_pass(monkeypatch, validation_stays_on):
    """On a layer, whose bias leads it where tanh has no digits left, and on what is no number."""
    monkeypatch.setattr(CpuKernels, "uuid", lambda _: None)  # what is in the compiler's cache needs no pass
    passed = []
    run = CpuKernels.__call__
    monkeypatch.setattr(CpuKernels, "__call__", lambda self, graph: passed.append(run(self, graph)))
    bias = th.cat([th.tensor([th.nan, th.inf, -th.inf, 0.0, 100.0, -100.0]), th.linspace(-3, 3, 26)])
    examples = [bias, th.randn(MANY, 4), th.randn(4, 32)]
    (result,) = compile_function(lambda *x: (th.addmm(*x).tanh(),), examples)(examples)
    assert len(passed) == 1
    np.testing.assert_allclose(result, th.addmm(*examples).tanh(), rtol=1e-5, atol=1e-6)
    th.testing.assert_close(result, rational_tanh(examples[1] @ examples[2] + bias), rtol=1e-6, atol=1e-7, equal_nan=True)
