"""Trace and compile a pure function of tensors into one graph, or raise one sentence that says why it cannot be."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor, fx

from sb3_pgx.engine import kept_graphs
from sb3_pgx.engine.compile_locks import compiler, help_compiling, my_turn
from sb3_pgx.engine.inductor import CPU_OPTIONS, Inductor, first_line, same_results
from sb3_pgx.engine.trace import Function, NotCompilable, copy_like, trace

# A run is compiled (compile="auto") when its gradient steps, including those of earlier calls of `learn`, exceed this
# number: 25,000 environment steps of PPO's defaults. Compiling takes about 10 s once per network and machine, 0.1 s from then
# on, and saves some 0.5 ms a step: it pays after 20,000 steps the first time, and after a few hundred later.
COMPILE_AFTER = 4_000
# Seconds to compile a graph, and per operation: of PPO's default network, acting has 40 operations and a step 360.
SECONDS_TO_COMPILE = (4.0, 0.01)
# A compiled graph rounds in another order than the operations one by one; a graph that is not theirs differs by far more.
KEPT_LIKE_EAGER = {"rtol": 1e-2, "atol": 1e-3}


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
    """
    A compiled function that receives only the arguments that it reads.

    :param graph: compiled; takes those arguments, and then the constants
    :param read: which arguments they are
    :param constants: of the function
    """

    def __init__(self, graph: Function, read: Sequence[int], constants: Sequence[Tensor] = ()):
        self._graph, self._pick, self._constants = graph, _picker(read), constants

    def __call__(self, arguments: Sequence[Tensor]) -> Any:
        return self._graph(*self._pick(arguments), *self._constants)


def _picker(indices: Sequence[int]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    return itemgetter(*indices) if len(indices) > 1 else lambda items: [items[i] for i in indices]


def compile_function(
    function: Function,
    examples: Sequence[Tensor],
    announce: Callable[[float], None] = lambda seconds: None,
    wait: Callable[[], None] = lambda: None,
) -> Compiled:
    """
    Trace a function, and compile the graph or load it from the graphs that are kept between runs.

    The function must be pure, except that it may change its arguments in place, and must not branch on values.

    :param function: maps tensors to a tuple of tensors
    :param examples: arguments with the shapes, strides, types and device of later ones; they are not changed
    :param announce: called before the graph is compiled, with the seconds that it takes, roughly
    :param wait: called before waiting for another process that compiles the graph
    :return: the compiled function, for such arguments only; it takes them as one sequence
    :raises NotCompilable: it cannot be traced or compiled; the message is a sentence without a full stop
    """
    return begin_compiling(function, examples, announce, wait)()


def begin_compiling(
    function: Function,
    examples: Sequence[Tensor],
    announce: Callable[[float], None] = lambda seconds: None,
    wait: Callable[[], None] = lambda: None,
    ahead: bool = False,
) -> Callable[[], Compiled]:
    """
    Trace a function, and return a function that returns the compiled one.

    Arguments and errors are those of :func:`compile_function`.

    :param ahead: whether to compile in a second thread, in :func:`~sb3_pgx.engine.compile_locks.with_helper`
    """
    with _reasons(), th.no_grad():
        traced = trace(function, examples)
        inputs = [copy_like(x) for x in traced.inputs(examples)]
        examples = [copy_like(x) for x in examples]
        if _backend:
            graph = _made_by(_backend, traced.graph, inputs)
        else:
            graph = kept_or_compiled(traced.graph, inputs, announce, wait, ahead)

    def result() -> Compiled:
        with _reasons(), th.no_grad():
            compiled = Compiled(graph(), traced.read, traced.constants)
            compiled(examples)  # compiles what is left to compile, and fails here if at all
        return compiled

    return result


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn every error into a reason why something cannot be compiled."""
    try:
        yield
    except NotCompilable:
        raise
    except Exception as error:
        raise NotCompilable(first_line(error)) from error


def _made_by(backend: "Backend", graph: fx.GraphModule, examples: Sequence[Tensor]) -> Callable[[], Function]:
    made = backend(graph, examples)
    return lambda: made


def kept_or_compiled(
    graph: fx.GraphModule,
    examples: Sequence[Tensor],
    announce: Callable[[float], None],
    wait: Callable[[], None],
    ahead: bool = False,
) -> Callable[[], Function]:
    """
    Return a function that returns the compiled graph: one of those that are kept between runs, or a new one, which is kept.

    :param graph: operations on tensors
    :param examples: inputs of the graph; it may change them
    :param announce: called before it is compiled, with the seconds that it takes, roughly
    :param wait: called before waiting for another process that compiles it
    :param ahead: whether to compile in a second thread, in :func:`~sb3_pgx.engine.compile_locks.with_helper`
    """
    folder = kept_graphs.folder() if all(x.device.type == "cpu" for x in examples) else None
    key = "" if folder is None else kept_graphs.key(graph, examples, CPU_OPTIONS)
    loaded = None if folder is None else _loaded(folder, key, graph, examples)
    if loaded is not None:
        return lambda: loaded

    def work() -> Function:
        with th.no_grad():
            return _newly_compiled(folder, key, graph, examples, announce, wait)

    def in_turn() -> Function:
        with my_turn():
            return work()

    return (help_compiling(work) if ahead else None) or in_turn


def _newly_compiled(
    folder: Path | None,
    key: str,
    graph: fx.GraphModule,
    examples: Sequence[Tensor],
    announce: Callable[[float], None],
    wait: Callable[[], None],
) -> Function:
    if folder is None:
        announce(_seconds_to_compile(graph))
        with compiler():
            return Inductor(graph, examples).function
    with kept_graphs.turn(folder, key, wait):
        loaded = _loaded(folder, key, graph, examples)  # another process may have compiled it meanwhile
        if loaded is not None:
            return loaded
        announce(_seconds_to_compile(graph))
        with compiler():
            made = Inductor(graph, examples)
        if made.library is not None:
            kept_graphs.save(folder, key, made.library)
        return made.function


def signature(tensors: Collection[Tensor]) -> tuple[Any, ...]:
    """Return a key that is equal for tensors that one graph can take."""
    return (*map(_KIND, tensors), *map(Tensor.stride, tensors))


_KIND = attrgetter("shape", "dtype", "device")

Backend = Callable[[fx.GraphModule, Sequence[Tensor]], Function]
_backend: Backend | None = None  # TorchInductor


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


def _seconds_to_compile(graph: fx.GraphModule) -> float:
    """Return the seconds that compiling takes on a common machine."""
    return SECONDS_TO_COMPILE[0] + SECONDS_TO_COMPILE[1] * len(graph.graph.nodes)


def _loaded(folder: Path, key: str, graph: fx.GraphModule, examples: Sequence[Tensor]) -> Function | None:
    """Return the graph that is kept under a key, if it does what the operations do, run one by one."""
    loaded = kept_graphs.load(folder, key)
    if loaded is None:
        return None
    try:
        if same_results(graph, loaded, examples, **KEPT_LIKE_EAGER):
            return loaded
    except Exception:  # whatever it raises, it is not the graph of these operations
        pass
    kept_graphs.remove(folder, key)
    return None
