"""Record a pure function of tensors as a graph of its operations."""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import getitem
from typing import Any

import torch as th
from torch import Tensor, fx
from torch.fx.node import map_aggregate

Function = Callable[..., Any]
aten = th.ops.aten


class NotCompilable(Exception):
    """The reason why a function is not compiled, in one sentence."""


@dataclass(frozen=True)
class Trace:
    """
    The operations of a function, gradients included.

    :param graph: takes the arguments that are read, and then the constants
    :param read: which arguments are read
    :param constants: tensors that the function makes from numbers and arrays, such as ``torch.tensor(0.5)``
    """

    graph: fx.GraphModule
    read: Sequence[int]
    constants: Sequence[Tensor]

    def inputs(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Return the graph's inputs for the function's arguments."""
        return [*(arguments[i] for i in self.read), *self.constants]


def trace(function: Function, examples: Sequence[Tensor]) -> Trace:
    """
    Record a function.

    What is computed twice is in the graph once, unless one of the results is changed in place: nested function transforms
    recompute the function, a Gauss-Newton product does so three times.

    :param function: maps tensors to a tuple of tensors; it may change its arguments in place
    :param examples: arguments; they are not changed
    :raises NotCompilable: what it does depends on something besides the arguments, or on their values
    """
    try:
        return _record(function, examples, merging=True)
    except _MergedAndChanged:
        return _record(function, examples, merging=False)


def copy_like(x: Tensor) -> Tensor:
    """Return a copy with the same strides."""
    return th.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


class _MergedAndChanged(Exception):
    """One of two equal results is changed in place."""


def _record(function: Function, examples: Sequence[Tensor], merging: bool) -> Trace:
    arguments = [copy_like(x) for x in examples]
    recorder = Recorder(arguments, merging)
    reading, recording = _modes()
    with recording(recorder), reading(recorder):
        result = function(*arguments)
    graph, inputs = recorder.graph, recorder.inputs
    graph.output(map_aggregate(tuple(result), recorder.node))
    graph.eliminate_dead_code()
    read = [i for i, node in enumerate(inputs[: len(examples)]) if node.users]
    constants = [x for node, x in zip(inputs[len(examples) :], recorder.constants, strict=True) if node.users]
    for node in inputs:
        if not node.users:
            graph.erase_node(node)
    return Trace(fx.GraphModule(th.nn.Module(), graph), read, constants)


class Recorder:
    """
    Runs operations and records them in a graph.

    :param arguments: of the function
    :param merging: whether operations that are computed twice are recorded once
    """

    def __init__(self, arguments: Sequence[Tensor], merging: bool):
        self.graph = fx.Graph()
        self.inputs: list[fx.Node] = []  # of the arguments, followed by those of the constants
        self.constants: list[Tensor] = []
        self._merging = merging
        self._nodes: dict[int, fx.Node] = {}  # by the id of a tensor
        self._alive: list[Tensor] = []  # so that no id comes twice
        # Operations since the last change in place, and the memory of their results.
        self._known: dict[str, tuple[fx.Node, set[int]]] = {}
        self._merged: set[int] = set()  # memory of results that share a node
        for x in arguments:
            self._stand_for(x, self._input())

    def run(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation, record it, and return its result."""
        if th.Tag.nondeterministic_seeded in operation.tags:  # before any is drawn: the process has one generator
            raise NotCompilable(f"it draws random numbers ({operation})")
        if th.Tag.data_dependent_output in operation.tags:
            raise NotCompilable(f"it reads a value of a tensor, on which a graph cannot depend ({operation})")
        if operation is aten.lift_fresh.default:
            return self._constant(args[0])
        result = operation(*args, **kwargs)
        if operation in (aten.detach.default, aten.alias.default):  # which hide that two inputs are the same
            self._stand_for(result, self.node(args[0]))
            return result
        operands = map_aggregate((args, kwargs), self.node)
        changed = {_memory(x) for x in _tensors(_changed(operation, args, kwargs))}
        made = {_memory(x) for x in _tensors(result)} - {_memory(x) for x in _tensors((args, kwargs))}
        node = self._changing(operation, operands, changed) if changed else self._pure(operation, operands, made)
        if isinstance(result, Tensor):
            self._stand_for(result, node)
        elif isinstance(result, list | tuple):
            for i, x in enumerate(result):
                if isinstance(x, Tensor):
                    self._stand_for(x, self._item(node, i))
        return result

    def read(self, x: Tensor, how: str) -> None:
        """:raises NotCompilable: the numbers of a tensor that depends on the arguments would become part of the graph"""
        if x.numel():
            raise NotCompilable(f"it reads the values of a tensor, on which a graph cannot depend ({how})")

    def node(self, x: Any) -> Any:
        """
        Return the node of a tensor; anything else stays as it is.

        :raises NotCompilable: the tensor is neither an argument nor computed from arguments
        """
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._nodes:
            raise NotCompilable("it reads a tensor that is neither a parameter nor in the batch")
        return self._nodes[id(x)]

    def _pure(self, operation: Any, operands: Any, made: set[int]) -> fx.Node:
        key = f"{operation} {operands}"
        if self._merging and key in self._known:
            node, memory = self._known[key]
            self._merged |= memory | made
            return node
        node = self.graph.call_function(operation, *operands)
        self._known[key] = (node, made)
        return node

    def _changing(self, operation: Any, operands: Any, changed: set[int]) -> fx.Node:
        if changed & self._merged:
            raise _MergedAndChanged
        self._known.clear()
        return self.graph.call_function(operation, *operands)

    def _item(self, node: fx.Node, i: int) -> fx.Node:
        known = next((user for user in node.users if user.target is getitem and user.args[1] == i), None)
        return known or self.graph.call_function(getitem, (node, i))

    def _stand_for(self, x: Tensor, node: fx.Node) -> None:
        self._nodes[id(x)] = node
        self._alive.append(x)

    def _input(self) -> fx.Node:
        with self.graph.inserting_after(self.inputs[-1] if self.inputs else None):
            self.inputs.append(self.graph.placeholder(f"input_{len(self.inputs)}"))
        return self.inputs[-1]

    def _constant(self, x: Tensor) -> Tensor:
        """Record a tensor made from numbers, of which the graph makes a copy in case it is changed in place."""
        self.constants.append(x.clone())
        self._stand_for(x, self.graph.call_function(aten.clone.default, (self._input(),)))
        return x


@cache
def _modes() -> tuple[type[Any], type[Any]]:
    """
    Return two contexts. In the first, a recorder is asked before a tensor is turned into numbers, which are no operations. In
    the second, torch gives every operation to it, below autograd and function transforms.
    """
    _import_sympy()
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reading(TorchFunctionMode):
        def __init__(self, recorder: Recorder):
            super().__init__()
            self._recorder = recorder

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
                self._recorder.read(args[0], func.__name__)
            return func(*args, **(kwargs or {}))

    class Recording(TorchDispatchMode):
        def __init__(self, recorder: Recorder):
            super().__init__()
            self._recorder = recorder

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self._recorder.run(func, args, kwargs or {})

    return Reading, Recording


def _import_sympy() -> None:
    """Import what torch imports with the first such context, and remove the filter of warnings that it adds to the process."""
    if "sympy" not in sys.modules:
        import sympy  # noqa: F401

        for added in [x for x in warnings.filters if x[2].__module__.startswith("sympy.")]:
            warnings.filters.remove(added)  # type: ignore[attr-defined]


def _changed(operation: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the arguments that an operation changes in place."""
    places = {
        a.name: i for i, a in enumerate(operation._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    }
    return [kwargs[name] if name in kwargs else args[i] for name, i in places.items() if name in kwargs or i < len(args)]


def _tensors(values: Any) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors([*values.values()])


def _memory(x: Tensor) -> int:
    try:
        return x.untyped_storage().data_ptr()
    except RuntimeError:  # of the zeros of a derivative, which are nowhere
        return id(x)
