"""One function to one graph: what a graph may read, and what compiling leaves behind in the process."""

import os
import subprocess
import sys

import pytest
import torch as th

from sb3_pgx.engine.compiler import NotCompilable, compile_function, using_backend


def test_a_function_that_closes_over_a_tensor_or_fails_is_not_compiled(graphs):
    outside = th.ones(2)
    with pytest.raises(NotCompilable, match="reads a tensor that is neither a parameter nor in the batch"):
        compile_function(lambda x: (x + outside,), [th.ones(2)])
    with pytest.raises(NotCompilable, match=r"it draws random numbers \(aten"):
        compile_function(lambda x: (x + th.rand(2),), [th.ones(2)])
    with pytest.raises(NotCompilable, match=r"^KeyError: 'no'$"):
        compile_function(lambda x: {}["no"], [th.ones(2)])
    assert compile_function(lambda x: (x + th.tensor(2.0),), [th.ones(2)])([outside])[0].tolist() == [3.0, 3.0]


OUTPUTS = {
    "/usr/bin/ld: cannot find -lgomp: No such file or directory\ncollect2: error: ld returned 1 exit status": (
        "/usr/bin/ld: cannot find -lgomp: No such file or directory"
    ),
    "In file included from a.cpp:1:\nb.h:2:10: fatal error: omp.h: No such file or directory\ncompilation terminated.": (
        "b.h:2:10: fatal error: omp.h: No such file or directory"
    ),
    "{standard input}: Assembler messages:\nas: error: main.s: No space left on device": (
        "as: error: main.s: No space left on device"
    ),
    "Killed\n": "Killed",
    "": "it says nothing",
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_compiler_that_fails_is_named_and_what_it_says_of_the_cause(output):
    from torch._inductor.exc import CppCompileError

    def backend(graph, examples):
        raise CppCompileError(["/usr/bin/g++", "main.cpp", "-o", "main.so"], output)

    with using_backend(backend), pytest.raises(NotCompilable) as raised:
        compile_function(lambda x: (x * 2,), [th.ones(2)])
    assert str(raised.value) == f"the C++ compiler /usr/bin/g++ failed: {OUTPUTS[output]}"


FAKES = {
    "#!/bin/sh\nexit 1\n": "the C++ compiler {} fails when it is asked for its version",
    '#!/bin/sh\ncase "$*" in *--version*|*-dumpversion*) exec g++ "$@";; esac\necho "ld: cannot find -lgomp" >&2\nexit 1\n': (
        "the C++ compiler {} failed: ld: cannot find -lgomp"
    ),
    None: "no C++ compiler was found",
}
ONE_FUNCTION = """
import torch as th
from sb3_pgx.engine.compiler import NotCompilable, compile_function
try:
    compile_function(lambda x: (x.tanh() + x.sin(),), [th.ones(64, 64)])
except NotCompilable as reason:
    print(reason)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", FAKES)
def test_the_compiler_that_the_environment_names_is_blamed(script, tmp_path):
    path = tmp_path / "c++"
    if script is not None:
        path.write_text(script)
        path.chmod(0o755)
    env = {**os.environ, "CXX": str(path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, "-c", ONE_FUNCTION], env=env, capture_output=True, text=True)
    assert result.stdout.strip() == FAKES[script].format(path), result.stderr


def test_examples_are_not_changed_and_arguments_that_are_not_read_are_not_passed(graphs):
    def function(a, b, c):
        a.add_(c)
        return (a * 2,)

    examples = [th.ones(2), th.ones(3), th.ones(2)]
    compiled = compile_function(function, examples)
    assert all(th.equal(x, th.ones_like(x)) for x in examples)
    assert len([node for node in graphs[0].graph.nodes if node.op == "placeholder"]) == 2
    given = [th.ones(2), th.ones(3), th.ones(2)]
    (result,) = compiled(given)
    assert result.tolist() == [4.0, 4.0] and given[0].tolist() == [2.0, 2.0]


def test_what_is_computed_twice_is_in_the_graph_once(graphs):
    def function(x):
        return (x.tanh() * x.detach().tanh(),)

    compiled = compile_function(function, [th.ones(2)])
    assert len([node for node in graphs[0].graph.nodes if node.target is th.ops.aten.tanh.default]) == 1
    x = th.tensor([0.5, -2.0])
    th.testing.assert_close(compiled([x])[0], x.tanh() ** 2)


def test_the_same_operation_before_and_after_a_change_in_place_is_done_twice(graphs):
    def function(x):
        before = x.tanh()
        x.add_(1.0)
        return (before, x.tanh())

    before, after = compile_function(function, [th.ones(2)])([th.zeros(2)])
    assert before.tolist() == [0.0, 0.0] and after.tolist() == pytest.approx([0.76159416] * 2)


STATE = """
import logging, os, signal, sys, warnings
import numpy as np, torch as th
import sb3_pgx
from sb3_pgx.engine.compiler import compile_function

assert not [m for m in sys.modules if m.startswith(("torch._dynamo", "torch._inductor"))], "imported with the package"

def state():
    return dict(
        validation=th.distributions.Distribution._validate_args, threads=th.get_num_threads(), dtype=th.get_default_dtype(),
        between=th.get_num_interop_threads(), grad=th.is_grad_enabled(),
        # torch 2.8's compiler imports pkg_resources, which adds a filter for a warning of its own.
        filters=[f for f in warnings.filters if f[2].__module__ != "pkg_resources"],
        deterministic=th.are_deterministic_algorithms_enabled(), precision=th.get_float32_matmul_precision(),
        folder=os.getcwd(), root=(logging.root.level, list(logging.root.handlers)), numbers=np.geterr(),
        interrupt=signal.getsignal(signal.SIGINT), excepthook=sys.excepthook,
        random=th.get_rng_state().tolist(), numpy=np.random.get_state()[1].tolist(),
        environment={k: v for k, v in os.environ.items() if "TORCHINDUCTOR" not in k},
    )

before = state()
compiled = compile_function(lambda x: (x + 1,), [th.zeros(3)])
assert compiled([th.ones(3)])[0].tolist() == [2.0, 2.0, 2.0]
assert "torch._inductor" in sys.modules
changed = {key: (before[key], value) for key, value in state().items() if value != before[key]}
assert not changed, changed
"""


def test_compiling_changes_no_process_wide_state():
    """In a process of its own, since the compiler changes what it changes when it is imported."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
