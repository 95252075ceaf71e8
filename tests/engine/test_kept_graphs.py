"""Compiled graphs that are kept between runs: found again, refused if they must not be loaded, and harmless if they fail."""

import hashlib
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch as th
from support.full_disk import full_disk

import sb3_pgx.engine.graph_rewrites as graph_rewrites
from benchmarks.provenance import code_of
from sb3_pgx.engine import kept_graphs
from sb3_pgx.engine.compiler import compile_function
from sb3_pgx.engine.inductor import CPU_OPTIONS
from sb3_pgx.engine.kept_graphs import VARIABLE, VERSION, clear, graphs, key, load, save, this_environment
from sb3_pgx.engine.trace import NotCompilable, trace

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
X = th.linspace(-2, 2, 12).reshape(3, 4)


def function(x, y):
    y.add_(1.0)
    return x.exp() + y, (x * y).sum(0)


def examples():
    return [X.clone(), X.clone()]


def expected(x):
    y = x + 1.0
    return x.exp() + y, (x * y).sum(0), y


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """A folder with the compiled graph of the function above."""
    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        compile_function(function, examples())
    return folder


@pytest.fixture
def folder(compiled_once, tmp_path, monkeypatch):
    """A copy of it, which is the one in use."""
    copy = tmp_path / "graphs"
    shutil.copytree(compiled_once, copy)
    copy.chmod(0o700)
    monkeypatch.setenv(VARIABLE, str(copy))
    return copy


def loaded(function, arguments):
    """The function's graph, which must not be compiled."""

    def compiled_anew(seconds):
        raise RuntimeError("compiled anew")

    return compile_function(function, arguments, compiled_anew)


ANEW = pytest.raises(NotCompilable, match="compiled anew")


def check(compiled):
    x, y = th.randn(3, 4), th.randn(3, 4)
    first, second, changed = expected(x)[0] - (x + 1.0) + (y + 1.0), (x * (y + 1.0)).sum(0), y + 1.0
    results = compiled([x, y])
    for result, right in zip([*results, y], [first, second, changed], strict=True):
        th.testing.assert_close(result, right, rtol=1e-5, atol=1e-5)


def test_a_graph_is_kept_in_one_file_that_only_its_owner_can_change_and_is_found_again(folder):
    (kept,) = graphs(folder)
    assert kept.size == kept.file.stat().st_size and kept.file.stat().st_mode & 0o077 == 0
    assert [file.name for file in folder.iterdir()] == [kept.file.name], "no lock and no unfinished file is left"
    check(loaded(function, examples()))


@pytest.mark.parametrize(
    "other",
    [
        lambda x, y: function(x, y * 2),
        lambda x, y: (x.exp() + y.add_(1.5), (x * y).sum(0)),
        lambda x, y: (x.exp() + y.add_(1.0), (x * y).sum(1)),
    ],
)
def test_other_operations_or_numbers_are_another_graph(folder, other):
    with ANEW:
        loaded(other, examples())


@pytest.mark.parametrize("other", [X.double(), X.T.contiguous().T, th.ones(4, 4), X.half()])
def test_other_layouts_are_another_graph(folder, other):
    with ANEW:
        loaded(function, [other.clone(), other.clone()])


SETTINGS = ("get_num_threads", "get_float32_matmul_precision", "are_deterministic_algorithms_enabled", "get_default_dtype")


def test_another_torch_machine_or_number_of_threads_is_another_graph(monkeypatch):
    graph, here = trace(function, examples()).graph, this_environment()
    keys = {key(graph, examples(), CPU_OPTIONS), key(graph, examples(), CPU_OPTIONS, here)}
    assert len(keys) == 1 and here._fields == ("rewrites", "torch", "python", "machine", "variables")
    keys |= {key(graph, examples(), CPU_OPTIONS, here._replace(**{name: "another"})) for name in here._fields}
    keys.add(key(graph, examples(), {**CPU_OPTIONS, "size_asserts": True}))
    for setting in SETTINGS:
        monkeypatch.setattr(th, setting, lambda: "another")
        keys.add(key(graph, examples(), CPU_OPTIONS))
        monkeypatch.undo()
    assert len(keys) == 1 + 5 + 1 + len(SETTINGS)
    machine = " ".join(here.machine)
    assert th.__version__ in here.torch and (sys.platform in machine) and (th.backends.cpu.get_cpu_capability() in machine)


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a byte": _flip,
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:1000]),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_loaded_and_compiled_again(folder, damage):
    (kept,) = graphs(folder)
    before = kept.file.read_bytes()
    DAMAGES[damage](kept.file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(compile_function(function, examples()))
    (again,) = graphs(folder)
    assert (again.file.name, again.file.read_bytes()) == (kept.file.name, before)


def test_a_file_under_another_name_is_not_loaded(folder):
    """It takes other inputs: to run it would read beyond them."""
    (kept,) = graphs(folder)
    other = key(trace(lambda x: (x.cos(),), [X]).graph, [X], CPU_OPTIONS)
    kept.file.rename(folder / kept.file.name.replace(kept.file.stem.partition("-")[0], other))
    assert load(folder, other) is None and graphs(folder) == []


def test_a_graph_that_another_process_removes_while_it_is_loaded_is_a_miss(folder):
    """A link to a file that is gone stands in for it: it is listed, and cannot be read."""
    (kept,) = graphs(folder)
    kept.file.unlink()
    kept.file.symlink_to(folder / "gone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(folder, kept.file.stem.partition("-")[0]) is None


def test_a_graph_that_does_not_do_what_the_operations_do_is_compiled_again(folder, tmp_path):
    def other(x, y):
        return x.exp() + y.add_(1.5), (x * y).sum(0)

    (kept,) = graphs(folder)
    compile_function(other, examples())
    of_other = next(graph for graph in graphs(folder) if graph.file != kept.file)
    kept.file.unlink()
    save(folder, key(trace(function, examples()).graph, examples(), CPU_OPTIONS), of_other.file)
    with ANEW:
        loaded(function, examples())
    check(compile_function(function, examples()))
    check(loaded(function, examples()))


PLACES = {
    "folder for all": lambda folder: folder.chmod(0o777),
    "folder of another user": lambda folder: os.chown(folder, 12345, -1),
    "file for all": lambda folder: next(folder.iterdir()).chmod(0o702),
    "file for the group": lambda folder: next(folder.iterdir()).chmod(0o720),
    "file of another user": lambda folder: os.chown(next(folder.iterdir()), 12345, -1),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_others_can_write_is_not_loaded(folder, place):
    if "another" in place and os.getuid() != 0:
        pytest.skip("only root can give a file away")
    PLACES[place](folder)
    (kept,) = graphs(folder)
    blamed = folder if "folder" in place else kept.file
    sentence = f"{blamed} belongs to another user" if "another" in place else f"other users can write {blamed}"
    with pytest.warns(RuntimeWarning, match=f"not loaded, and is compiled again: {sentence}.*choose another") as caught:
        assert load(folder, kept.file.stem.partition("-")[0]) is None
        check(compile_function(function, examples()))
    assert len(caught) == 1, "said once, also if the graph cannot be kept"
    again = graphs(folder)
    assert [graph.file for graph in again] == [kept.file]
    if "file" in place:
        check(loaded(function, examples()))  # the new one has taken its place


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_sentence(tmp_path, monkeypatch, compiled_once):
    (kept,) = graphs(compiled_once)
    (tmp_path / "file").write_text("mine")
    with pytest.warns(RuntimeWarning, match="compiled graphs are not kept for later runs: .*file"):
        save(tmp_path / "file" / "graphs", "key", kept.file)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(folder, compiled_once):
    before = sorted(folder.iterdir())
    with pytest.warns(RuntimeWarning, match="compiled graphs are not kept for later runs"), full_disk(1000):
        save(folder, "k" * 32, before[0])
    assert sorted(folder.iterdir()) == before


def test_beyond_the_bound_exactly_the_graphs_that_were_used_least_recently_go(folder, tmp_path):
    """They are used in another order than that in which they are made."""
    (real,) = graphs(folder)
    library = tmp_path / "library.so"
    library.write_bytes(bytes(real.size))
    uses = {f"{i:032}": 1 + (7 * i) % 211 for i in range(210)}
    for name, use in uses.items():
        (folder / f"{name}-hash.so").write_bytes(library.read_bytes())
        os.utime(folder / f"{name}-hash.so", (use, use))
    os.utime(real.file, (0, 0))
    check(loaded(function, examples()))  # which makes it the one that was used last
    save(folder, "new", library, max_bytes=12 * real.size + 1)
    latest = sorted(uses, key=uses.get)[-10:]
    assert {graph.file.name.partition("-")[0] for graph in graphs(folder)} == {
        real.file.name.partition("-")[0],
        "new",
        *latest,
    }
    (folder / "notes.txt").write_text("mine")
    assert clear(folder) == 12 and [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_several_graphs_that_cannot_be_kept_are_one_sentence(tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(b"content")
    (tmp_path / "file").write_text("mine")
    with pytest.warns(RuntimeWarning, match="compiled graphs are not kept for later runs: ") as caught:
        for name in ("one", "two", "three"):
            save(tmp_path / "file", name, library)
    assert len(caught) == 1


def test_an_empty_name_turns_keeping_off(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert kept_graphs.folder() is None
    monkeypatch.delenv(VARIABLE)
    assert kept_graphs.folder().name == "graphs" and "sb3_pgx" in kept_graphs.folder().parts


def test_of_several_that_want_a_graph_at_once_one_compiles_it(tmp_path, monkeypatch):
    """Threads stand in for processes: the lock is on a file."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    made, results = [], []
    threads = [
        threading.Thread(target=lambda: results.append(compile_function(function, examples(), made.append))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(results) == 3
    for compiled in results:
        check(compiled)


# Of each version, a hash of rewrites and kernel. If it differs, the code has changed: raise kept_graphs.VERSION, and add a
# line here.
REWRITES = {1: "ab2d1c48b6f9eb76", 2: "917adc3a77037ea8", 3: "7ec860887af6aa48", 4: "e2917ecd2c4cc195", 5: "c71fa161d6819c6c"}


def test_the_version_follows_the_rewrites():
    source = "\n".join(code_of(Path(file)) for file in graph_rewrites.SOURCES)
    assert REWRITES[VERSION] == hashlib.sha256(source.encode()).hexdigest()[:16]
