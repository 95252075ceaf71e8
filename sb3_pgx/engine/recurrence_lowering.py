"""
A lowering for TorchInductor on the CPU: the operators of :mod:`sb3_pgx.ops.recurrence` become calls of the functions in
``recurrence_kernel.cpp``, which is built as part of the compiled graph.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch as th
from torch._inductor.ir import ExternKernelOut, FixedLayout, FlexibleLayout, TensorBox
from torch._inductor.lowering import register_lowering

from sb3_pgx.engine.graph_rewrites import TANH_BOUND, TANH_DENOMINATOR, TANH_NUMERATOR, TANH_SMALL
from sb3_pgx.ops.recurrence import OPERATORS

SOURCE = Path(__file__).with_name("recurrence_kernel.cpp")


class KernelCall(ExternKernelOut):
    """
    A call of a function of the C++ source, in a graph.

    :param function: name of the function; it takes rows, width, the pointers of the inputs, and that of the result
    :param sizes: rows and width
    :param layout: of the result
    :param inputs: contiguous
    """

    def __init__(self, function: str, sizes: tuple[int, int], layout: FixedLayout, inputs: Sequence[Any]):
        super().__init__(layout, inputs)
        self.function, self.sizes = function, sizes

    def codegen(self, wrapper: Any) -> None:
        """Write the call and, before the first one, the source."""
        source = _source()
        if source not in wrapper.src_to_kernel:
            wrapper.src_to_kernel[source] = SOURCE.stem
            wrapper.define_kernel(SOURCE.stem, source, gpu=False, cpp_definition="\n".join(map(_declaration, OPERATORS)))
        pointers = [*map(_pointer, self.inputs), f"static_cast<float*>({self.get_name()}.data_ptr())"]
        wrapper.writeline(f"sb3_pgx::{self.function}({', '.join([*map(str, self.sizes), *pointers])});")


def _pointer(tensor: Any) -> str:
    """Return a C++ expression for the place of a tensor's first number."""
    kind = "int64_t" if tensor.get_dtype() == th.int64 else "float"
    return f"static_cast<const {kind}*>({tensor.get_name()}.data_ptr()) + {tensor.get_layout().offset}"


def _source() -> str:
    numbers = {"NUMERATOR": TANH_NUMERATOR, "DENOMINATOR": TANH_DENOMINATOR}
    constants = [f"constexpr float TANH_BOUND = {TANH_BOUND}f, TANH_SMALL = {TANH_SMALL}f;"]
    constants += [f"constexpr float TANH_{name}[] = {{{', '.join(f'{x}f' for x in xs)}}};" for name, xs in numbers.items()]
    return "\n".join([*constants, SOURCE.read_text(encoding="utf-8")])


def _lower(operator: Any, shape: Callable[[int, int], tuple[int, ...]]) -> None:
    """Turn an operator into calls of the function with its name."""
    weights = [argument.name for argument in operator._schema.arguments].index("weights")

    def lowering(*tensors: Any) -> TensorBox:
        rows, width = int(tensors[0].get_size()[0]), int(tensors[weights].get_size()[1])
        sizes = shape(rows, width)
        layout = FixedLayout(tensors[0].get_device(), th.float32, sizes, FlexibleLayout.contiguous_strides(sizes))
        inputs = [ExternKernelOut.require_contiguous(ExternKernelOut.realize_input(x)) for x in tensors]
        return TensorBox.create(KernelCall(_name(operator), (rows, width), layout, inputs))

    register_lowering(operator, broadcast=False, type_promotion_kind=None)(lowering)


def _name(operator: Any) -> str:
    return operator.name().partition("::")[2]


def _declaration(operator: Any) -> str:
    kinds = ["const int64_t*" if argument.name == "sizes" else "const float*" for argument in operator._schema.arguments]
    return f"namespace sb3_pgx {{ void {_name(operator)}(int64_t, int64_t, {', '.join(kinds)}, float*); }}"


for _operator, _shape in OPERATORS.items():
    _lower(_operator, _shape)
