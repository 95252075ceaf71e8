"""
Compiled graphs that are kept between runs: one shared object each, loaded without TorchInductor and without a C++ compiler.

They are in the folder that ``SB3_PGX_CACHE_DIR`` names, or in the user's cache folder; an empty value turns them off. A file's
name is the graph's key, and a hash of the key and the content. Loading a shared object runs its code, so folders and files
that another user owns or can write are refused.
"""

import importlib.util
import os
import platform
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from torch import Tensor, fx

from sb3_pgx.core.errors import warn
from sb3_pgx.core.files import replacing, sweep
from sb3_pgx.engine.trace import Function

VARIABLE = "SB3_PGX_CACHE_DIR"
MAX_BYTES = 200 * 2**20  # of all graphs together
LONGEST_TURN = 120.0  # seconds to wait for another process that compiles the same graph
LONGEST_LOCK = 86_400.0  # seconds after which a lock belongs to a process that was killed: no graph takes a day to compile
# Of what the package itself does to graphs (``SOURCES`` of :mod:`sb3_pgx.engine.graph_rewrites`): graphs of another version
# are not loaded.
VERSION = 5


class KeptGraph(NamedTuple):
    """A graph on disk: its file, size in bytes, and the time of its last use in seconds since 1970."""

    file: Path
    size: int
    used: float


def folder() -> Path | None:
    """Return the folder of compiled graphs, which need not exist; ``None`` if they are not kept."""
    place = os.environ.get(VARIABLE)
    if place is not None:
        return Path(os.path.expanduser(place)) if place else None
    from platformdirs import user_cache_path

    of_user = user_cache_path("sb3_pgx") / "graphs"
    return of_user if of_user.is_absolute() else None  # of a user without a home


def graphs(folder: Path) -> list[KeptGraph]:
    """Return the graphs in a folder, those used last first."""
    found = []
    for file in folder.glob("*.so"):
        with suppress(OSError):  # another process has removed it
            status = file.stat()
            found.append(KeptGraph(file, status.st_size, status.st_mtime))
    return sorted(found, key=lambda graph: graph.used, reverse=True)


def clear(folder: Path) -> int:
    """Remove all graphs from a folder, and what killed processes left there, but nothing else. Return the number of graphs."""
    kept = graphs(folder)
    for file in (*(graph.file for graph in kept), *folder.glob("*.lock")):
        file.unlink(missing_ok=True)
    sweep(folder)
    return len(kept)


def remove(folder: Path, key: str) -> None:
    """Remove the graph that is kept under a key."""
    for file in folder.glob(f"{key}-*.so"):
        _remove(file)


class Environment(NamedTuple):
    """
    What compiled graphs depend on besides their operations and inputs.

    :param rewrites: version of this package's rewrites
    :param torch: torch's version and its git commit
    :param python: Python's version, since a graph is a module
    :param machine: system, processor, its instructions, and those of them that torch uses
    :param variables: environment variables that change what the compiler does
    """

    rewrites: int
    torch: tuple[str, ...]
    python: str
    machine: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]


@cache
def this_environment() -> Environment:
    """Return the environment of this process."""
    variables = sorted(pair for pair in os.environ.items() if pair[0].startswith(("TORCHINDUCTOR_", "CXX")))
    return Environment(
        VERSION,
        (th.__version__, str(th.version.git_version)),
        sys.version,
        (sys.platform, platform.machine(), th.backends.cpu.get_cpu_capability(), _instructions()),
        tuple(pair for pair in variables if pair[0] != "TORCHINDUCTOR_CACHE_DIR"),
    )


def _instructions() -> str:
    """Return the instructions that this machine's processor has, if the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def key(
    graph: fx.GraphModule,
    examples: Sequence[Tensor],
    options: Mapping[str, Any],
    environment: Environment | None = None,
) -> str:
    """
    Return a hash of everything that a compiled graph depends on.

    :param graph: without constants
    :param examples: inputs of the graph
    :param options: of the compiler
    :param environment: default: that of this process
    """
    here = environment or this_environment()
    nodes = [(n.name, n.op, str(n.target), repr(n.args), repr(n.kwargs)) for n in graph.graph.nodes]
    inputs = [(tuple(x.shape), x.stride(), str(x.dtype)) for x in examples]
    settings: list[Any] = [th.get_num_threads(), th.get_float32_matmul_precision(), th.are_deterministic_algorithms_enabled()]
    settings += [th.get_default_dtype(), th.backends.mkldnn.enabled, sorted(options.items())]
    return sha256(repr((nodes, inputs, settings, here)).encode()).hexdigest()[:32]


def load(folder: Path, key: str) -> Function | None:
    """
    Return the graph that is kept under a key; ``None`` if there is none, or if it must not or cannot be loaded.

    :param folder: of compiled graphs
    :param key: from :func:`key`
    """
    try:
        for file in folder.glob(f"{key}-*.so"):
            _check_ours(folder, file)
            if file == _file(folder, key, file.read_bytes()):
                with suppress(OSError):  # of a folder that is only read
                    os.utime(file)
                return function_of(file)
            _remove(file)  # damaged
    except Exception as error:
        if isinstance(error, FileNotFoundError) or not file.exists():
            return None  # another process has removed it
        _tell(folder, f"a compiled graph of {folder} was not loaded, and is compiled again: {error}")
    return None


def save(folder: Path, key: str, library: Path, max_bytes: int = MAX_BYTES) -> None:
    """
    Keep a compiled graph. If that fails, a warning says so.

    :param folder: of compiled graphs, which is made if it does not exist
    :param key: from :func:`key`
    :param library: shared object of the graph
    :param max_bytes: beyond this size of the folder, the graphs that were used least recently are removed
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_ours(folder)
        content = library.read_bytes()
        remove(folder, key)  # which may have been refused: the new file would get its owner and permissions
        with replacing(_file(folder, key, content)) as file:
            os.chmod(file.fileno(), 0o700)
            file.write(content)
        total = 0
        for graph in graphs(folder):
            total += graph.size
            if total > max_bytes:
                graph.file.unlink(missing_ok=True)
        _remove_old_locks(folder)
    except Exception as error:
        _tell(folder, f"compiled graphs are not kept for later runs: {error}")


@contextmanager
def turn(folder: Path, key: str, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """
    Wait while another process compiles the graph of a key, and let others wait meanwhile.

    The lock ends with the process that holds it, also if the process is killed.

    :param folder: of compiled graphs
    :param key: from :func:`key`
    :param wait: called before waiting, if another process compiles the graph
    """
    with ExitStack() as stack:
        with suppress(Exception):  # a graph that is compiled twice is no harm
            from filelock import FileLock, Timeout

            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_ours(folder)
            file = folder / f"{key}.lock"
            lock = FileLock(file)
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                wait()
                stack.enter_context(lock.acquire(timeout=LONGEST_TURN))
            stack.callback(_remove, file)  # before the lock is released: afterwards the file may be another process's
        yield


def function_of(library: Path) -> Function:
    """
    Return the function of a compiled graph.

    :param library: shared object that TorchInductor made; it is loaded, which runs its code
    """
    variable = "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"  # which the object reads when it is loaded
    before = os.environ.get(variable)
    os.environ[variable] = str(th._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr)  # type: ignore[attr-defined]
    try:
        spec = importlib.util.spec_from_file_location(f"{library.stem}.inductor_entry_cpp", library)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
    run = module.inductor_entry_cpp
    give, take = th._C._aoti.unsafe_alloc_void_ptrs_from_tensors, th._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
    return lambda *inputs: take(run(give(list(inputs))))


def _file(folder: Path, key: str, content: bytes) -> Path:
    return folder / f"{key}-{sha256(key.encode() + content).hexdigest()}.so"


def _check_ours(*places: Path) -> None:
    """:raises PermissionError: another user, except for root, owns a place, or others can write it"""
    for place in places:
        status = place.stat()
        if hasattr(os, "getuid") and status.st_uid not in (0, os.getuid()):
            raise PermissionError(f"{place} belongs to another user; choose another folder with {VARIABLE}")
        if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"other users can write {place}; chmod go-w {place}, or choose another with {VARIABLE}")


def _remove_old_locks(folder: Path) -> None:
    """Remove the locks of processes that were killed while they compiled."""
    for lock in folder.glob("*.lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > LONGEST_LOCK:
                lock.unlink()


def _remove(file: Path) -> None:
    with suppress(OSError):  # of a folder that is only read
        file.unlink()


_told: set[Path] = set()


def _tell(folder: Path, sentence: str) -> None:
    """Warn, once per folder: what is wrong with it concerns every graph."""
    if folder not in _told:
        _told.add(folder)
        warn(sentence, RuntimeWarning)
