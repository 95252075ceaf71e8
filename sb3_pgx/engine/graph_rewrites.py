"""A post-grad pass for TorchInductor on the CPU: rewrites small matrix products, biases and tanh into forms that fuse."""

from collections.abc import Callable
from operator import le
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.lowering import make_pointwise, register_lowering
from torch._inductor.virtualized import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

aten = th.ops.aten

# What a compiled graph is made with besides the compiler.
SOURCES = tuple(
    str(Path(__file__).with_name(name)) for name in ("graph_rewrites.py", "recurrence_lowering.py", "recurrence_kernel.cpp")
)

# tanh(x/2) ≈ x P(x²) / Q(x²) within ±TANH_BOUND, where tanh reaches 1 in float32. Fitted so that the relative error of tanh(x)
# is below 2e-10 (least squares, reweighted until the largest error is smallest); that of float32's rounding is far more.
TANH_BOUND, TANH_SMALL = 9.1, 0.6
TANH_NUMERATOR = (4.725994641606831e-08, 8.24487870092571e-05, 0.015843059034043778, 0.4999999999116392)
TANH_DENOMINATOR = (2.895894910499405e-06, 0.0014165198171817012, 0.11501945002824589, 1.0)

# Rows, inner size and columns up to which calling for a matrix product costs more than computing it. Such are those of acting
# in up to 16 environments with layers of 64 units (a fifth of that graph's time), and gradients of few outputs' weights (5 %).
SMALL_PRODUCT = (16, 64, 64)
# Columns from which the other way round is no faster for a transposed matrix times another one: its result is transposed.
NARROW = 33


class CpuKernels(CustomGraphPass):
    """
    Rewrites of float32 operations: biases become sums, outer products become elementwise products, small products become
    sums that fuse with the kernels around them, products of a transposed matrix with a narrow one are computed the other way
    round, and the tanh of a layer becomes :func:`rational_tanh`. Other uses of tanh
    stay, because the density of a squashed action has log(1 − tanh²), where every digit counts. The compiler's expm1 (of ELU,
    SELU and CELU) is exp(x) − 1, which is 0 for small x; :func:`exact_expm1` replaces it.

    The rest is for speed. A training of ppo-cartpole takes 1.08 [1.06, 1.10] times as long without the rational tanh,
    1.05 [1.04, 1.08] times without the sums (``python -m benchmarks.speed.removals``), and 1.04 [1.03, 1.05] times without the
    rewritten products (``python -m benchmarks.speed.pairs``).
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrite the graph in place."""
        for node in _float32(graph, aten.tanh.default):
            if _is_product(node.all_input_nodes[0]):
                node.target = th.ops.sb3_pgx.tanh.default
        for node in _float32(graph, aten.expm1.default):
            node.target = th.ops.sb3_pgx.expm1.default
        for node in _float32(graph, aten.addmm.default):
            if not node.kwargs:
                _replace(node, _ADDMM)
        for node in _float32(graph, aten.mm.default):
            factors: Any = node.args
            (n_rows, inner), (_, n_columns) = (factor.meta["val"].shape for factor in factors)
            if inner == 1:
                _replace(node, _OUTER)
            elif all(map(le, (n_rows, inner, n_columns), SMALL_PRODUCT)):
                _replace(node, _sum_over(inner))
            elif n_columns < min(n_rows, NARROW) and factors[0].meta["val"].T.is_contiguous():
                _replace(node, _MIRRORED)

    def uuid(self) -> bytes:
        """Return a key of this pass for the compiler's cache."""
        return get_hash_for_files(SOURCES)


def _float32(graph: fx.Graph, target: Any) -> list[fx.Node]:
    return [n for n in graph.find_nodes(op="call_function", target=target) if n.meta["val"].dtype == th.float32]


def _is_product(node: fx.Node) -> bool:
    """Return whether a node is a matrix product, or a sum with one."""
    if node.target in (aten.addmm.default, aten.mm.default):
        return True
    return node.target in _SUMS_AND_SHAPES and any(map(_is_product, node.all_input_nodes))


def rational_tanh(x: Tensor) -> Tensor:
    """
    Return tanh(x) within a relative error of 4e-7. The vector library is within 1e-7 and takes six times as long (22 µs, not
    4, for 256 rows of 64): much of a small network's time is that of its tanh.

    With tanh(|x|/2) = n / d,

        tanh(|x|) = 2 n d / (n² + d²) = n d / (n d + r) = 1 − r / (n d + r),  r = (d − n)² / 2.

    The first quotient keeps small numbers exact. The last one is rounded as the exact value would be where tanh is nearly 1,
    so that its derivative 1 − tanh², which the backward pass computes from the result, is as near as float32 allows, and 0
    for saturated units.

    :param x: float32
    """
    size = x.abs().clamp(max=TANH_BOUND)
    square = size * size
    ratio, d = _polynomial(TANH_NUMERATOR, square), _polynomial(TANH_DENOMINATOR, square)
    n = size * ratio
    difference = d - n
    rest = 0.5 * difference * difference
    inverse = (n * d + rest).reciprocal()
    large = 1 - rest * inverse
    signed = th.where(x < 0, -large, large)  # copysign calls the vector library, which takes 15 % longer in all
    return th.where(size < TANH_SMALL, x * (ratio * d * inverse), signed)


def exact_expm1(x: Tensor) -> Tensor:
    """
    Return exp(x) − 1 without cancellation, from (u − 1) x / log u for u = exp(x), in which the rounding of u cancels (Kahan).

    :param x: float32
    """
    u = x.exp()
    near_zero = th.where(u == 1, x, (u - 1) * x / u.log())
    return th.where(x.abs() < 0.5, near_zero, u - 1)


def _one_operation(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """
    Make a function one operation, ``torch.ops.sb3_pgx.<name>``, that the compiler turns into one kernel.

    If the operations stood in the graph one by one, the compiler would trace each of them again for each of its uses, with all
    that come before it: compiling a step of PPO took 6 s longer.

    :param function: pointwise function of one tensor
    """
    graph = make_fx(function, select_decomp_table())(th.zeros(2)).graph
    (x,) = (node for node in graph.nodes if node.op == "placeholder")
    (result,) = next(node for node in graph.nodes if node.op == "output").args

    def kernel(value: Any) -> Any:
        known = {x: value}
        for node in graph.nodes:
            if node.op == "call_function":
                operands = [known[a] if isinstance(a, fx.Node) else ops.constant(a, th.float32) for a in node.args]
                name = node.target.name().removeprefix("aten::").partition(".")[0]
                known[node] = getattr(ops, _COMPILERS_NAMES.get(name, name))(*operands)
        return known[result]

    _OPERATIONS.define(f"{name}(Tensor x) -> Tensor")
    _OPERATIONS.impl(name, function, "CompositeExplicitAutograd")
    register_lowering(getattr(th.ops.sb3_pgx, name).default)(make_pointwise(kernel))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    result = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        result = result * x + coefficient
    return result


def _sum_over(inner: int) -> fx.Graph:
    """Return a matrix product of this inner size as a sum."""

    def function(rows: Tensor, weights: Tensor) -> Tensor:
        # In memory, or the compiler would compute the rows' tanh anew for every column.
        kept = th.ops.prims.inductor_force_stride_order(rows, (inner, 1))
        return (kept.unsqueeze(2) * weights.unsqueeze(0)).sum(1)

    return make_fx(function)(th.zeros(2, inner), th.zeros(inner, 2)).graph


def _replace(node: fx.Node, function: fx.Graph) -> None:
    """Replace a node by the operations of a function."""
    inputs = [x for x in function.nodes if x.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(inputs, node.args, strict=True))
    with node.graph.inserting_before(node):
        result: Any = node.graph.graph_copy(function, copies)
    for original, copy in copies.items():
        if original not in inputs:
            args, kwargs = map_arg((copy.args, copy.kwargs), lambda x: x.meta["val"])
            copy.meta = node.meta | {"val": copy.target(*args, **kwargs)}
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


_SUMS_AND_SHAPES = (aten.add.Tensor, aten.view.default, aten.reshape.default, aten._unsafe_view.default)
# On the CPU addmm copies the bias into the result and multiplies then, which takes as long as a small layer's product; a sum
# is part of the kernel that comes next, such as the activation's.
_ADDMM = make_fx(lambda bias, rows, weights: th.mm(rows, weights) + bias)(th.zeros(1), th.zeros(1, 1), th.zeros(1, 1)).graph
# So is this one: of each output's gradient in a layer's input, for one output, or of a layer with one input.
_OUTER = make_fx(lambda column, row: column * row)(th.zeros(1, 1), th.zeros(1, 1)).graph
# And gradients of weights, for few inputs: the library's product has kernels for wide results and few for narrow ones. Of 4
# inputs, 64 units and 128 rows it takes 3 µs instead of 11; of 1,024 units 35 instead of 365. What follows may need the
# layout of the product.
_MIRRORED = make_fx(lambda a, b: (b.permute(1, 0) @ a.permute(1, 0)).permute(1, 0).clone(memory_format=th.contiguous_format))(
    th.zeros(2, 1), th.zeros(1, 1)
).graph
_OPERATIONS = th.library.Library("sb3_pgx", "DEF")
_COMPILERS_NAMES = {"clamp_max": "minimum", "div": "truediv"}
_one_operation("tanh", rational_tanh)
_one_operation("expm1", exact_expm1)
