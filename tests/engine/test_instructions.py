"""The vector instructions of compiled graphs: those that TorchInductor's own trial finds, mostly without the trial."""

import os
import shutil
import subprocess
import sys

import pytest
import torch as th

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif("AVX" not in th.backends.cpu.get_cpu_capability(), reason="needs a processor with AVX"),
]

TWO_GRAPHS = """
import torch as th
from sb3_pgx.engine.compiler import compile_function
x = th.linspace(-2, 2, 4096)
(tanh,) = compile_function(lambda x: (x.tanh() + x.sin(),), [x])([x])
(exp,) = compile_function(lambda x: (x.exp() + x.cos(),), [x])([x])
th.testing.assert_close(tanh, x.tanh() + x.sin(), rtol=0, atol=1e-5)
th.testing.assert_close(exp, x.exp() + x.cos(), rtol=0, atol=1e-5)
"""
TRIAL = "from torch._inductor.cpu_vec_isa import pick_vec_isa; print(pick_vec_isa().build_arch_flags())"


@pytest.fixture
def builds(tmp_path):
    """Return a function that runs Python code; it returns what the code prints, and the arguments of each successful build."""
    compiler, log = tmp_path / "c++", tmp_path / "log"

    def run(code, refused="none"):
        """:param refused: pattern of the arguments for which the C++ compiler fails"""
        compiler.write_text(
            f'#!/bin/sh\nfor word in "$@"; do case "$word" in {refused}) echo "error: $word" >&2; exit 1;; esac; done\n'
            f'g++ "$@" || exit 1\ncase "$*" in *.cpp*) echo "$@" >> {log};; esac\n'
        )
        compiler.chmod(0o755)
        places = {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "SB3_PGX_CACHE_DIR": ""}
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | places, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), [line.split() for line in log.read_text().splitlines()]

    return run


def instructions(arguments):
    """The arguments of a C++ compiler that say which instructions it may use."""
    return [x for x in arguments if x.startswith(("-mavx", "-mamx"))]


def test_nothing_but_the_graphs_is_built_with_the_instructions_that_a_trial_finds(builds):
    _, graphs = builds(TWO_GRAPHS)
    found, _ = builds(TRIAL)
    assert len(graphs) == 2 and instructions(found)
    assert all(instructions(arguments) == instructions(found) for arguments in graphs)


@pytest.mark.parametrize("refused", ["-mavx512vnni|-mamx*", "-mavx512*|-mamx*", "-mavx*|-mamx*"])
def test_with_a_compiler_that_does_not_know_the_instructions_graphs_are_built_as_after_a_trial(builds, refused):
    _, (*_, one, other) = builds(TWO_GRAPHS, refused)
    found, _ = builds(TRIAL, refused)
    assert instructions(one) == instructions(other) == instructions(found)
