"""What the compiler's graphs are rewritten to, and how near it is."""

import time

import numpy as np
import pytest
import torch as th
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_pgx.common.compiling import compile_function
from sb3_pgx.common.kernels import CpuKernels, add_biases_apart, rational_tanh


def operations(graph):
    return [node.target.name() for node in graph.nodes if node.op == "call_function"]


def test_the_rational_tanh_is_within_six_last_digits_everywhere():
    small, around = 10.0 ** th.linspace(-37, 0, 50_001), th.linspace(0, 12, 500_001)
    x = th.cat([small, around[1:], -small, -around[1:]])
    result, exact = rational_tanh(x).double(), x.double().tanh()
    assert (result / exact - 1).abs().max() < 4e-7
    assert result.abs().max() <= 1.0
    assert th.equal(rational_tanh(-x), -rational_tanh(x))


def test_the_rational_tanh_of_what_is_not_finite_and_of_nothing():
    assert rational_tanh(th.tensor([0.0, th.inf, -th.inf])).tolist() == pytest.approx([0.0, 1.0, -1.0], abs=4e-7)
    assert rational_tanh(th.tensor([th.nan])).isnan().all()


def test_biases_are_added_apart_from_products_but_for_those_with_factors():
    def function(bias, rows, weights):
        return th.addmm(bias, rows, weights) * 3, th.addmm(bias, rows, weights, beta=2.0)

    inputs = [th.tensor([10.0, 20.0]), th.tensor([[1.0, 2.0, 3.0]]), th.tensor([[1.0, 0.0], [0.0, -9.0], [-4.0, 1.0]])]
    graph = make_fx(function)(*inputs)
    add_biases_apart(graph.graph)
    graph.recompile()
    assert operations(graph.graph) == ["aten::mm", "aten::add.Tensor", "aten::mul.Tensor", "aten::addmm"]
    tripled, doubled = graph(*inputs)
    assert (tripled.tolist(), doubled.tolist()) == ([[-3.0, 15.0]], [[9.0, 25.0]])


def test_the_pass_replaces_the_tanh_of_float32_alone():
    graph = make_fx(lambda x, y: (x.tanh(), y.tanh()))(x := th.linspace(-3, 3, 7), y := x.double())
    CpuKernels()(graph.graph)
    graph.recompile()
    assert operations(graph.graph).count("aten::tanh") == 1
    single, double = graph(x, y)
    assert th.equal(single, rational_tanh(x)) and th.equal(double, y.tanh())


def test_the_compiler_runs_the_pass(monkeypatch, validation_stays_on):
    monkeypatch.setattr(CpuKernels, "uuid", lambda _: str(time.time()))  # what is in the compiler's cache needs no pass
    examples = [th.randn(32), th.randn(8, 4), th.randn(4, 32)]  # smaller products it takes apart itself

    def function(*inputs):
        return (th.addmm(*inputs).tanh(),)

    seen = []
    run = CpuKernels.__call__

    def watched(self, graph):
        run(self, graph)
        seen.extend(operations(graph))

    monkeypatch.setattr(CpuKernels, "__call__", watched)
    (result,) = compile_function(function, examples)(examples)
    assert {"aten::mm", "aten::add.Tensor", "aten::div.Tensor"} <= set(seen) and not {"aten::addmm", "aten::tanh"} & set(seen)
    np.testing.assert_allclose(result, function(*examples)[0], rtol=1e-5, atol=1e-7)
