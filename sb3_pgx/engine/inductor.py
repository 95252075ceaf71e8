"""Compile a graph with TorchInductor, or say in one line why that fails."""

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor, fx

from sb3_pgx.core.tensors import copy_all
from sb3_pgx.engine.instructions import TRUSTING, tried_instructions
from sb3_pgx.engine.kept_graphs import function_of
from sb3_pgx.engine.trace import Function, copy_like

# One thread: the pool of compiler processes costs more than it gives for so small a graph.
OPTIONS = {"compile_threads": 1}
CPU_OPTIONS = {
    "cpp_wrapper": True,
    # The caller guarantees the layouts; checking them again takes as long as a small kernel per tensor.
    "size_asserts": False,
    # A product and a sum as one operation, as matrix products have it: faster, and rounded once instead of twice.
    "cpp.enable_floating_point_contract_flag": "fast",
    # It takes 4 s, and pays only where many graphs are compiled.
    "cpp_cache_precompile_headers": False,
}


class Inductor:
    """
    A graph compiled by TorchInductor, without guards: later arguments must have the layout of the examples.

    ``function`` takes the inputs and returns a sequence of tensors. ``library`` is the file of the compiled graph; ``None`` on
    CUDA, and where the graph needs more than that file.

    :param graph: operations on tensors
    :param examples: inputs of the graph
    """

    def __init__(self, graph: fx.GraphModule, examples: Sequence[Tensor]):
        outer, inner = _compile(graph, examples)
        self.function, self.library = outer, None if inner is None else _library(inner)
        candidates: list[Callable[[], Function]] = []
        if self.library is not None:
            candidates.append(lambda: function_of(self.library))  # type: ignore[arg-type]
        # AOTAutograd's wrapper handles gradients and aliases, which these graphs never have. Calling the inner function
        # directly saves the time of a small layer per call.
        if inner is not None:
            candidates.append(lambda: lambda *args: inner(list(args)))
        if examples[0].is_cuda:
            candidates.insert(0, lambda: CudaGraph(outer, examples))
        for make in candidates:
            with suppress(RuntimeError, AttributeError, ImportError, OSError):
                # Not every operation can be captured on CUDA; torch's names may change; a folder may forbid to run code.
                candidate = make()
                if same_results(outer, candidate, examples):
                    self.function = candidate
                    return
            self.library = None


def _compile(graph: fx.GraphModule, examples: Sequence[Tensor]) -> tuple[Function, Function | None]:
    """Return the compiled graph with and, if it takes the same inputs, without what surrounds it."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    outer: Any
    inner: list[Any] = []
    n_inputs: list[int] = []

    def keep_inner(graph: Any, inputs: Sequence[Any], **kwargs: Any) -> Any:
        n_inputs.append(len(inputs))
        inner.append(compile_fx_inner(graph, inputs, **kwargs))
        return inner[-1]

    options: dict[str, Any] = dict(OPTIONS)
    if examples[0].device.type == "cpu":
        from sb3_pgx.engine.graph_rewrites import CpuKernels
        from sb3_pgx.ops.recurrence import OPERATORS

        if any(node.target in OPERATORS for node in graph.graph.nodes):
            import sb3_pgx.engine.recurrence_lowering  # noqa: F401
        options |= {**CPU_OPTIONS, "post_grad_custom_post_pass": CpuKernels()}
        try:
            outer = compile_fx(graph, list(examples), inner_compile=keep_inner, config_patches={**options, **TRUSTING})
        except Exception:  # perhaps the C++ compiler does not know the processor's instructions
            inner.clear()
            n_inputs.clear()
            with tried_instructions():
                outer = compile_fx(graph, list(examples), inner_compile=keep_inner, config_patches=options)
    else:
        outer = compile_fx(graph, list(examples), inner_compile=keep_inner, config_patches=options)
    # Constants that AOTAutograd finds become inputs of the inner one, which would read beyond what it is given.
    if n_inputs != [len(examples)]:
        return outer, None
    return outer, getattr(inner[0], "current_callable", None) or inner[0]  # without the bookkeeping of a compiler's caches


def _library(call: Any) -> Path | None:
    """Return the file of a compiled graph, or ``None`` if the graph needs constants or Python functions besides."""
    entry = getattr(call, "__globals__", {}).get("inductor_entry")
    origin = getattr(getattr(getattr(entry, "__self__", None), "__spec__", None), "origin", None)
    if origin is None or {"constants_tensor", "item"} & {*call.__code__.co_varnames, *call.__code__.co_names}:
        return None
    path = Path(origin)
    return None if b"custom_op_wrapper" in path.read_bytes() else path


class CudaGraph:
    """
    A function captured as a CUDA graph and replayed: one launch instead of one per kernel.

    :param function: of CUDA tensors; it may change them in place
    :param examples: arguments of the shapes and types of those to come
    :raises RuntimeError: it cannot be captured
    """

    def __init__(self, function: Function, examples: Sequence[Tensor]):
        self._static = [copy_like(x) for x in examples]
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


def same_results(one: Function, other: Function, examples: Sequence[Tensor], rtol: float = 0.0, atol: float = 0.0) -> bool:
    """
    Return whether two functions return the same and change their arguments in the same way.

    :param rtol: largest difference, relative to the largest number of a tensor
    :param atol: largest difference besides
    """
    results = []
    for function in (one, other):
        arguments = [copy_like(x) for x in examples]
        results.append([*function(*arguments), *arguments])
    return len(results[0]) == len(results[1]) and all(_close(x, y, rtol, atol) for x, y in zip(*results, strict=True))


def _close(x: Tensor, y: Tensor, rtol: float, atol: float) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    x, y = x.nan_to_num(), y.nan_to_num()
    if rtol == atol == 0.0 or not x.is_floating_point():
        return th.equal(x, y)
    if x.numel() == 0:
        return True
    return bool((x - y).abs().max() <= atol + rtol * x.abs().max())


# What a C++ compiler or linker says of the cause; what follows is of its consequences.
_CAUSE = re.compile(r"cannot find|No such file|No space left|\berror\b", re.IGNORECASE)


def first_line(error: BaseException) -> str:
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
