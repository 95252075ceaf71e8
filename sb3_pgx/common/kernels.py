"""What the compiler makes kernels of on the CPU, rewritten once more where that saves time."""

from typing import Any

import torch as th
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

aten = th.ops.aten

# Of the best rational function of degree 9 over 8 for tanh within ±TANH_BOUND: its relative error is 7e-9 (fitted by least
# squares with Lawson's weights), that of float32's rounding more. Beyond, tanh is as near to ±1 as 3e-7.
TANH_BOUND = 8.0
TANH_NUMERATOR = (1.5230347357331277e-08, 2.189461196080626e-05, 0.003571595002040274, 0.1344449543546684, 0.9999999935678662)
TANH_DENOMINATOR = (8.522418093097687e-07, 0.0003411287067114962, 0.026164431442065792, 0.4677782275391688, 1.0)


class CpuKernels(CustomGraphPass):
    """The last pass over the compiler's graph: biases are added apart, and each float32 tanh is :func:`rational_tanh`."""

    def __call__(self, graph: fx.Graph) -> None:
        """Changes the graph."""
        add_biases_apart(graph)
        for node in graph.find_nodes(op="call_function", target=aten.tanh.default):
            if node.meta["val"].dtype == th.float32:
                _replace(node, _TANH)

    def uuid(self) -> str:
        """By which the compiler's cache knows what the pass does: to be changed with it."""
        return "sb3_pgx: biases apart, rational tanh, 1"


def rational_tanh(x: Tensor) -> Tensor:
    """
    tanh within a relative error of 4e-7, where the vector library is within 1e-7 and takes some four times as long: much of a
    small network's time is that of its tanh.

    :param x: float32
    """
    x = x.clamp(-TANH_BOUND, TANH_BOUND)
    square = x * x
    return x * _polynomial(TANH_NUMERATOR, square) / _polynomial(TANH_DENOMINATOR, square)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    result = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        result = result * x + coefficient
    return result


def add_biases_apart(graph: fx.Graph) -> None:
    """
    Makes a product and a sum of each ``addmm`` without factors. On the CPU ``addmm`` copies the bias into the result and
    multiplies then, which takes as long as a small layer's product; a sum is part of the kernel that comes next, such as the
    activation's.
    """
    for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
        if not node.kwargs:
            _replace(node, _ADDMM)


def _replace(node: fx.Node, function: fx.Graph) -> None:
    """Puts a function's operations, whose results all have the node's shape and type, in the place of the node."""
    inputs = [x for x in function.nodes if x.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(inputs, node.args, strict=True))
    with node.graph.inserting_before(node):
        result: Any = node.graph.graph_copy(function, copies)
    for original, copy in copies.items():
        if original not in inputs:
            copy.meta = node.meta.copy()
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


_TANH = make_fx(rational_tanh, select_decomp_table())(th.zeros(2)).graph
_ADDMM = make_fx(lambda bias, rows, weights: th.mm(rows, weights) + bias)(th.zeros(1), th.zeros(1, 1), th.zeros(1, 1)).graph
