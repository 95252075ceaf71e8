"""Compiled graphs that several processes share: two that want the same one at once, and one that is killed on the way."""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch as th
from filelock import FileLock

from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import compile_function
from sb3_pgx.engine.inductor import CPU_OPTIONS
from sb3_pgx.engine.kept_graphs import LONGEST_LOCK, VARIABLE, clear, graphs, key, load, save
from sb3_pgx.engine.trace import trace

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked"),
]
X = th.linspace(-2, 2, 12).reshape(3, 4)


STAMP = 1.0 + time.time_ns() % 10**6 / 10**6  # in functions that TorchInductor must not know from an earlier run


def one(x):
    return (x.exp() - STAMP,)


def another(x):
    return (x.exp() + STAMP,)


@pytest.fixture(scope="module")
def imported():
    """TorchInductor, which takes seconds to import: forked processes have it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "")
        compile_function(lambda x: (x.exp() - 0.5,), [X])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of graphs, which does not exist yet."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "graphs"))
    return tmp_path / "graphs"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Return a function that sets what a shell does, with the compiling process ``$PPID``, before the C++ compiler starts."""
    path, real = tmp_path / "bin" / "g++", shutil.which("g++")
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    def before(commands):
        path.write_text(f'#!/bin/sh\ncase "$*" in *.main.cpp*) {commands};; esac\nexec {real} "$@"\n')
        path.chmod(0o755)

    return before


def forked(target):
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def wait_for(file):
    deadline = time.time() + 60
    while not file.exists():
        assert time.time() < deadline, f"{file} does not appear"
        time.sleep(0.02)


def never(*_):
    raise RuntimeError("called")


def names(folder):
    """The names of the files, with all hidden ones."""
    return sorted(os.listdir(folder))


@pytest.mark.slow
def test_of_two_processes_that_want_a_graph_at_once_one_compiles_it_and_the_other_waits(imported, folder, compiler, tmp_path):
    started, finish = tmp_path / "started", tmp_path / "finish"
    compiler(f"touch {started}; while ! [ -e {finish} ]; do sleep 0.02; done")
    other = forked(lambda: compile_function(one, [X], wait=never))
    wait_for(started)
    sentences = []

    def tell(sentence):
        sentences.append(sentence)
        finish.touch()

    compiled = CompileLog(tell).compile("acting", lambda: one, lambda: [X])
    other.join()
    assert other.exitcode == 0
    assert sentences == ["another process compiles the same graphs; this run waits for it", "acting is compiled"]
    th.testing.assert_close(compiled([X])[0], X.exp() - STAMP)
    assert names(folder) == [graph.file.name for graph in graphs(folder)] and len(graphs(folder)) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_compiles_leaves_nothing_in_the_way(imported, folder, compiler):
    compiler("kill -9 $PPID; exit 1")
    killed = forked(lambda: compile_function(another, [X]))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert graphs(folder) == [] and len(names(folder)) == 1, "the lock alone"
    compiler(":")
    compiled = compile_function(another, [X], wait=never)
    th.testing.assert_close(compiled([X])[0], X.exp() + STAMP)
    assert len(graphs(folder)) == 1 == len(names(folder)), "the lock is gone, too"


def test_a_run_that_waits_for_several_graphs_says_so_once(folder):
    sentences = []
    log = CompileLog(sentences.append)
    for function in (one, another):
        save(folder, "others", Path(__file__))  # makes the folder
        lock = FileLock(folder / f"{key(trace(function, [X]).graph, [X], CPU_OPTIONS)}.lock", thread_local=False)
        lock.acquire()
        threading.Timer(0.3, lock.release).start()
        log.compile("acting", lambda function=function: function, lambda: [X])
    about = [("another process" in sentence, "which takes about" in sentence) for sentence in sentences]
    assert about == [(True, False), (False, True), (False, False), (False, True), (False, False)]


def killed_at(event):
    """Kill this process as soon as it does something of this name in Python's table of audit events."""
    sys.addaudithook(lambda name, arguments: os.kill(os.getpid(), signal.SIGKILL) if name == event else None)


def killed_in_the_middle_of_the_content():
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


KILLS = {
    "in the content": (killed_in_the_middle_of_the_content, signal.SIGXFSZ),
    "before it has a name": (lambda: killed_at("os.link"), signal.SIGKILL),
    "before it has its name": (lambda: killed_at("os.rename"), signal.SIGKILL),
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_process_that_is_killed_while_it_writes_leaves_no_broken_graph(kill, tmp_path):
    folder, library = tmp_path / "graphs", tmp_path / "library.so"
    library.write_bytes(bytes(5000))
    arrange, number = KILLS[kill]

    def write():
        arrange()
        save(folder, "a" * 32, library)

    killed = forked(write)
    killed.join()
    assert killed.exitcode == -number
    assert graphs(folder) == [] and load(folder, "a" * 32) is None
    assert len(names(folder)) == (kill == "before it has its name")
    save(folder, "b" * 32, library)
    assert len(graphs(folder)) == 1 and names(folder) == [graphs(folder)[0].file.name], "what was left is gone"


def test_what_killed_processes_leave_is_removed(tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(bytes(5000))
    folder = tmp_path / "graphs"
    save(folder, "a" * 32, library)
    old, recent = folder / f"{'b' * 32}.lock", folder / f"{'c' * 32}.lock"
    for lock, age in ((old, LONGEST_LOCK + 60), (recent, LONGEST_LOCK - 60)):
        lock.touch()
        os.utime(lock, (time.time() - age,) * 2)
    save(folder, "d" * 32, library)
    assert not old.exists() and recent.exists() and len(graphs(folder)) == 2

    def write():
        killed_at("os.rename")
        save(folder, "e" * 32, library)

    forked(write).join()
    assert len(names(folder)) == 4
    assert clear(folder) == 2 and names(folder) == []
