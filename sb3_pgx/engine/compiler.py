"""Trace and compile a pure function of tensors into one graph, or raise one sentence that says why it cannot be."""

import re
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

import torch as th
from torch import Tensor

from sb3_pgx.engine.tensors import copy_all

Function = Callable[..., Any]

# A run is compiled (compile="auto") when its gradient steps, including those of earlier calls of `learn`, exceed this
# number. Compiling PPO's default network takes about 15 s with an empty cache and 5 s with a warm one, and saves some 0.9 ms a
# step: it pays after 17,000 and 6,000 steps. `python -m benchmarks.speed` measures all three.
COMPILE_AFTER = 15_000


class NotCompilable(Exception):
    """The reason why a function is not compiled, in one sentence."""


def check_compile(value: Any) -> None:
    """:raises ValueError: ``compile`` is neither a boolean nor ``"auto"``"""
    if not (isinstance(value, bool) or value == "auto"):
        raise ValueError(f'compile={value!r} is unknown; choose "auto", True or False')


class Remembered:
    """A cached value, remade when its key changes. Small tensors cost more to make than their keys to compare."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Any] = (None, None)  # what the value was made from, and the value

    def __call__(self, key: Any, make: Callable[[], Any]) -> Any:
        """
        :param key: everything that the value depends on
        :param make: function that makes the value, which must not be changed
        """
        if key != self._kept[0]:
            self._kept = (key, make())
        return self._kept[1]


class Compiled:
    """A compiled function that receives only the arguments that it reads."""

    def __init__(self, function: Function, read: Sequence[int]):
        self._function, self._pick = function, _picker(read)

    def __call__(self, arguments: Sequence[Tensor]) -> Any:
        return self._function(*self._pick(arguments))


def _picker(indices: Sequence[int]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    return itemgetter(*indices) if len(indices) > 1 else lambda items: [items[i] for i in indices]


def compile_function(function: Function, examples: Sequence[Tensor]) -> Compiled:
    """
    Trace a function and compile the graph.

    The function must be pure, except that it may change its arguments in place, and must not branch on values.

    :param function: maps tensors to a tuple of tensors
    :param examples: arguments with the shapes, strides, types and device of later ones; they are not changed
    :return: the compiled function, for such arguments only; it takes them as one sequence
    :raises NotCompilable: it cannot be traced or compiled; the message is a sentence without a full stop
    """
    try:
        with _compile_lock(), th.no_grad():
            graph, read = trace(function, examples)
            kept = [examples[i] for i in read]
            compiled = Compiled(_backend(graph, [_like(x) for x in kept]), read)
            compiled([_like(x) for x in examples])  # compiles what is left to compile, and fails here if at all
    except NotCompilable:
        raise
    except Exception as error:
        raise NotCompilable(_first_line(error)) from error
    return compiled


def _compile_lock() -> AbstractContextManager[Any]:
    """
    Return torch's own compile lock, so that threads take turns, also with ``torch.compile``. Tracing changes process-wide
    state: it replaces methods of ``nn.Module`` and remembers in a global variable which ones.
    """
    if "sympy" not in sys.modules:
        import sympy  # noqa: F401  # which torch's compiler imports, and which adds to the process's filters of warnings

        for added in [x for x in warnings.filters if x[2].__module__.startswith("sympy.")]:
            warnings.filters.remove(added)  # type: ignore[attr-defined]
    from torch._dynamo.convert_frame import compile_lock

    return compile_lock


@cache
def _undrawn() -> type[AbstractContextManager[Any]]:
    """Return a context that refuses random numbers before any is drawn: there is one generator for the whole process."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Undrawn(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if th.Tag.nondeterministic_seeded in func.tags:
                raise NotCompilable(f"it draws random numbers ({func})")
            return func(*args, **(kwargs or {}))

    return Undrawn


def trace(function: Function, examples: Sequence[Tensor]) -> tuple[th.fx.GraphModule, list[int]]:
    """
    Return the operations of a function, gradients included, and the arguments that they read.

    :raises NotCompilable: they depend on something besides the arguments
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    refusing_random_numbers = _undrawn()

    def undrawn(*tensors: Tensor) -> Any:
        with refusing_random_numbers():
            return function(*tensors)

    graph = make_fx(undrawn)(*(_like(x) for x in examples))
    for node in graph.graph.nodes:
        if node.op == "get_attr" and not all(user.target is th.ops.aten.lift_fresh_copy.default for user in node.users):
            raise NotCompilable("it reads a tensor that is neither a parameter nor in the batch")
    simplify(graph)
    for node in graph.graph.nodes:
        node.meta.clear()  # describes tensors of this trace, which the compiler would take for its own
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    read = [i for i, node in enumerate(inputs) if node.users]
    for node in inputs:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return graph, read


def simplify(graph: th.fx.GraphModule) -> None:
    """
    Remove common subexpressions. Nested function transforms recompute the function; a Gauss-Newton product does so three
    times.
    """
    from torch._functorch.compile_utils import fx_graph_cse

    for node in graph.graph.nodes:
        if node.target in (th.ops.aten.detach.default, th.ops.aten.alias.default):  # which hide that two inputs are the same
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.graph = fx_graph_cse(graph.graph)


def signature(tensors: Collection[Tensor]) -> tuple[Any, ...]:
    """Return a key that is equal for tensors that one graph can take."""
    return (*map(_KIND, tensors), *map(Tensor.stride, tensors))


_KIND = attrgetter("shape", "dtype", "device")


def _like(x: Tensor) -> Tensor:
    """Return a copy with the same strides."""
    return th.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def inductor(graph: th.fx.GraphModule, examples: Sequence[Tensor]) -> Function:
    """Compile with TorchInductor, without guards: later arguments must have the layout of the examples."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    inner: list[Function] = []
    n_inputs: list[int] = []

    def keep_inner(graph: Any, inputs: Sequence[Any], **kwargs: Any) -> Any:
        n_inputs.append(len(inputs))
        inner.append(compile_fx_inner(graph, inputs, **kwargs))
        return inner[-1]

    # One thread: the pool of compiler processes costs more than it gives for so small a graph.
    options: dict[str, Any] = {"compile_threads": 1}
    if examples[0].device.type == "cpu":
        from sb3_pgx.engine.graph_rewrites import CpuKernels

        # A product and a sum as one operation, as matrix products have it: faster, and rounded once instead of twice.
        options |= {"cpp.enable_floating_point_contract_flag": "fast"}
        # The caller guarantees the layouts; checking them again takes as long as a small kernel per tensor.
        options |= {"cpp_wrapper": True, "size_asserts": False, "post_grad_custom_post_pass": CpuKernels()}
    outer: Any = compile_fx(graph, list(examples), inner_compile=keep_inner, config_patches=options)
    # AOTAutograd's wrapper handles gradients and aliases, which these graphs never have. Calling the inner function directly
    # saves the time of a small layer per call.
    innermost = getattr(inner[0], "current_callable", None) or inner[0]  # without the bookkeeping of a compiler's caches
    candidates: list[Callable[[], Function]] = [lambda: lambda *args: innermost(list(args))]
    if examples[0].is_cuda:
        candidates.insert(0, lambda: CudaGraph(outer, examples))
    for make in candidates:
        try:
            candidate = make()
            # Constants that the function makes become inputs of the inner one, which would read beyond what it is given.
            if n_inputs == [len(examples)] and _same(outer, candidate, examples):
                return candidate
        except RuntimeError:  # not every operation can be captured
            continue
    return outer


class CudaGraph:
    """
    A function captured as a CUDA graph and replayed: one launch instead of one per kernel.

    :param function: of CUDA tensors; it may change them in place
    :param examples: arguments of the shapes and types of those to come
    :raises RuntimeError: it cannot be captured
    """

    def __init__(self, function: Function, examples: Sequence[Tensor]):
        self._static = [_like(x) for x in examples]
        stream = th.cuda.Stream()
        stream.wait_stream(th.cuda.current_stream())
        with th.cuda.stream(stream):
            for _ in range(3):  # whatever is set up at the first calls must not be captured
                function(*self._static)
        th.cuda.current_stream().wait_stream(stream)
        self._graph = th.cuda.CUDAGraph()
        with th.cuda.graph(self._graph):
            self._results = function(*self._static)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        copy_all(self._static, arguments)
        self._graph.replay()
        copy_all(arguments, self._static)
        return tuple(result.clone() for result in self._results)  # the next replay overwrites them


def _same(one: Function, other: Function, examples: Sequence[Tensor]) -> bool:
    """Return whether two functions return the same and change their arguments in the same way."""
    results = []
    for function in (one, other):
        arguments = [_like(x) for x in examples]
        results.append([*function(*arguments), *arguments])
    return all(th.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(*results, strict=True))


Backend = Callable[[th.fx.GraphModule, Sequence[Tensor]], Function]
_backend: Backend = inductor


@contextmanager
def using_backend(backend: Backend) -> Iterator[None]:
    """
    Compile with another backend than TorchInductor while the context is open.

    :param backend: maps a graph and examples of its arguments to a function that computes the same
    """
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


# What a C++ compiler or linker says of the cause; what follows is of its consequences.
_CAUSE = re.compile(r"cannot find|No such file|No space left|\berror\b", re.IGNORECASE)


def _first_line(error: BaseException) -> str:
    """Return the cause of an error in one line; of a C++ compiler's output, the line that names it."""
    kind = type(error).__name__
    if isinstance(error, ImportError) and (error.name or "").startswith("torch"):
        missing = str(error).partition(" (")[0]  # what follows is the path of a file
        return f"torch {th.__version__} lacks what compiling needs: {missing}"
    if "CxxCompiler" in kind or "CxxCompiler" in str(error):
        from torch._inductor import config

        paths = [path for name in getattr(config.cpp, "cxx", ()) if name and (path := shutil.which(name))]
        return f"the C++ compiler {paths[0]} fails when it is asked for its version" if paths else "no C++ compiler was found"
    _, is_output, output = str(error).partition("Output:\n")
    if is_output and "C++ compile error" in str(error):
        command = str(error).partition("Command:\n")[2].split()
        lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it says nothing"]
        return f"the C++ compiler {command[0]} failed: {next(filter(_CAUSE.search, lines), lines[0])}"
    lines = str(error).strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else kind
