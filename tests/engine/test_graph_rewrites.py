"""What the compiler's graphs are rewritten to, and how near it is."""

import numpy as np
import pytest
import torch as th
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_pgx.engine.compiler import compile_function
from sb3_pgx.engine.graph_rewrites import NARROW, SMALL_PRODUCT, CpuKernels, exact_expm1, rational_tanh

MANY = SMALL_PRODUCT[0] + 1  # rows
WEIGHTS = th.tensor([[1.0, 0.0], [0.0, -9.0], [-4.0, 1.0]])
INPUTS = [th.tensor([10.0, 20.0]), th.tensor([[1.0, 2.0, 3.0]]).repeat(MANY, 1), WEIGHTS]


def rewritten(function, *inputs):
    """The graph of a function after the pass, and the names of its operations."""
    graph = make_fx(function, tracing_mode="fake")(*inputs)  # as the compiler has it
    CpuKernels()(graph.graph)
    graph.recompile()
    return graph, [node.target.name() for node in graph.graph.nodes if node.op == "call_function"]


def test_tanh_and_its_derivative_are_right_from_the_smallest_to_the_largest_numbers():
    """In float32, the backward pass takes 1 − tanh² from the result; the exact values are those of float64."""
    sizes = th.cat([10.0 ** th.linspace(-44, 38.5, 50_001), th.linspace(0, 12, 500_001)])
    x = th.cat([sizes, -sizes, th.tensor([th.inf, -th.inf])])
    result, exact = rational_tanh(x), x.double().tanh()
    normal = x.abs() > 1e-37  # smaller ones have fewer digits
    assert (result / exact - 1)[normal].abs().max() < 4e-7
    assert (result - x)[~normal].abs().max() < 1e-44
    assert result.abs().max() == 1.0 and th.equal(rational_tanh(-x), -result)
    assert str(rational_tanh(th.tensor([-0.0])).item()) == "-0.0" and rational_tanh(th.tensor([th.nan])).isnan().all()

    derivative = 1 - result * result
    assert (derivative - (1 - exact * exact)).abs().max() < 4e-7
    assert (derivative[x.abs() > 9.02] == 0).all(), "of saturated units it is 0, as that of float32's own tanh"
    # Where tanh is nearly 1, rounding is all that is wrong (half a unit in the last place): Adam would follow any other error.
    saturating = (x.abs() > 5) & (x.abs() < 9.02)
    assert (result - exact)[saturating].abs().max() < 0.6 * 2**-24
    assert (derivative - (1 - x.tanh() ** 2))[saturating].abs().mean() < 2e-8


def test_expm1_is_right_from_the_smallest_to_the_largest_numbers():
    sizes = 10.0 ** th.linspace(-44, 38.5, 50_001)
    x = th.cat([sizes, -sizes, th.tensor([0.0, th.inf, -th.inf, th.nan])])
    th.testing.assert_close(exact_expm1(x), x.expm1(), rtol=4e-7, atol=1e-44, equal_nan=True)


def test_the_expm1_of_an_activation_is_the_exact_one():
    _, operations = rewritten(lambda x: th.expm1(x), INPUTS[0])
    assert operations == ["sb3_pgx::expm1"]


@pytest.mark.parametrize("inner", [1, 3, 17, 64])
def test_replaced_products_are_right_for_numbers_of_every_size(inner):
    """Against float64: within float32's rounding of the sum of absolute products, and infinite where torch's are."""
    generator = th.Generator().manual_seed(inner)
    for exponent in range(-30, 31, 5):
        rows = th.randn(8, inner, generator=generator) * 10.0**exponent
        weights = th.randn(inner, 5, generator=generator) * 10.0 ** th.randint(-8, 9, (inner, 5), generator=generator)
        rows[0, 0], rows[1, 0], rows[2, 0] = th.nan, th.inf, 3e38
        graph, operations = rewritten(lambda a, b: a @ b, rows, weights)
        assert "aten::mm" not in operations
        result, torchs, exact = graph(rows, weights), rows @ weights, rows.double() @ weights.double()
        assert th.equal(result.isnan(), torchs.isnan()) and th.equal(result.isinf(), torchs.isinf())
        finite = torchs.isfinite()
        bound = rows.double().abs() @ weights.double().abs() * inner * 2**-23 + 1e-44 * inner
        assert ((result - exact).abs() <= bound)[finite].all()


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


def test_gradients_of_weights_for_few_inputs_are_computed_the_other_way_round():
    gradients, rows = th.randn(MANY, 40), th.randn(MANY, NARROW - 1)
    graph, operations = rewritten(lambda gradients, rows: gradients.T @ rows, gradients, rows)
    assert operations[-3:] == ["aten::mm", "aten::permute", "aten::clone"]
    th.testing.assert_close(graph(gradients, rows).double(), gradients.double().T @ rows.double(), rtol=1e-5, atol=1e-5)
    for other in (lambda a, b: b.T @ a, lambda a, b: a.T @ th.cat([b, b[:, :1]], 1), lambda a, b: a[:, :MANY] @ b):
        assert rewritten(other, gradients, rows)[1][-1] == "aten::mm", "wide ones, and those of a matrix as it is"


def test_small_products_take_any_rows_and_any_weights():
    """Parts of what is in memory, in any order; all in one graph, because compiling takes the time."""
    parts = [
        lambda x: x[2:10, 3:20],
        lambda x: x[:17, 5:13].T,
        lambda x: x[4:5, :17].expand(8, 17),
        lambda x: x.view(-1, 17, 2)[:8, :, 1],
        lambda x: x[2:10, 3:20].tanh(),
    ]

    def products(x, weights):
        return tuple(part(x) @ weights[7:28].T for part in parts)

    inputs = [th.randn(20, 34), th.randn(30, 17)]
    expected = products(*(x.double() for x in inputs))
    for result, exact in zip(compile_function(products, inputs)(inputs), expected, strict=True):
        th.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-5)


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
    assert "aten::tanh" not in operations and operations[-1] == "sb3_pgx::tanh"
    np.testing.assert_allclose(graph(*inputs), activation(*inputs), rtol=1e-6)


@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16, th.float64])
def test_other_types_stay_as_they_are(dtype):
    inputs = [x.to(dtype) for x in INPUTS]
    assert rewritten(lambda *x: th.addmm(*x).tanh(), *inputs)[1] == ["aten::addmm", "aten::tanh"]
    assert rewritten(lambda row: row.T @ row, inputs[1])[1][-1] == "aten::mm"


def test_the_density_of_a_squashed_action_keeps_its_tanh():
    actions = th.linspace(-0.999999, 0.999999, 50)
    _, operations = rewritten(lambda x: (1 - x.atanh().tanh() ** 2 + 1e-6).log(), actions)
    assert operations.count("aten::tanh") == 1 and "sb3_pgx::tanh" not in operations


def test_the_compiler_runs_the_pass(monkeypatch):
    """On a layer, whose bias leads it where tanh has no digits left, and on what is no number."""
    monkeypatch.setenv("SB3_PGX_CACHE_DIR", "")
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


@pytest.mark.parametrize("function, exact", [(rational_tanh, th.tanh), (exact_expm1, th.expm1)])
def test_the_compilers_kernel_is_the_function(monkeypatch, function, exact):
    """Over numbers of every size, and over lengths that leave a rest beside the processor's vectors."""
    monkeypatch.setenv("SB3_PGX_CACHE_DIR", "")
    sizes = 10.0 ** th.linspace(-44, 38.5, 1001)
    bias = th.cat([sizes, -sizes, th.tensor([0.0, -0.0, th.inf, -th.inf, th.nan])])
    rows, weights = th.zeros(MANY, 4), th.zeros(4, len(bias))
    compiled = compile_function(lambda *x: (exact(th.addmm(*x)),), [bias, rows, weights])
    result = compiled([bias, rows, weights])[0][0]
    th.testing.assert_close(result, function(bias), rtol=3e-7, atol=0.0, equal_nan=True)
    assert th.equal(result.isnan(), bias.isnan())
