"""Files that are written completely or not at all. The package writes everything that a user keeps through these functions."""

import contextlib
import errno
import io
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which does not remove open files
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".sb3_pgx-unfinished"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """
    Yield a binary file that replaces ``path`` atomically when the block ends.

    Until then the old file stays unchanged, whatever happens: an error, a full disk, the end of the process. Missing folders
    are created, links are followed, and an existing file keeps its permissions. Devices and pipes are written to directly.

    :param path: file to write
    :raises OSError: the file cannot be written; the message names the path
    """
    target, disk = Path(os.path.realpath(path)), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        is_special = target.exists() and not target.is_file()
        with _Disk(target, "wb") if is_special else _unfinished(target) as disk:
            file = io.BufferedWriter(disk)
            yield file
            file.flush()
    except Exception as error:
        failure = error if disk is None else disk.failure
        if not isinstance(failure, OSError):
            raise
        unchanged = "; the existing file is unchanged" if target.is_file() else ""
        raise cannot_write(target, failure, unchanged) from None


def write_text(path: str | Path, text: str) -> None:
    """
    Write a text file in UTF-8, with the guarantees of :func:`replacing`.

    :param path: file to write
    :param text: its content
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def saving(path: Any, suffix: str) -> Iterator[Any]:
    """
    Yield what SB3 should write to instead of ``path``, so that the file is replaced completely or not at all.

    :param path: path, to which the suffix is added if it has none, or an open file, which is yielded unchanged
    :param suffix: file name suffix, such as ``"zip"``
    """
    if not isinstance(path, str | Path):
        yield path
        return
    path = Path(path) if Path(path).suffix else Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2")  # same name and text as SB3's
        path = Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.")
    with replacing(path) as file:
        yield file


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    Yield a new folder to fill. It gets its name when the block ends, and is removed if the block raises an error.

    :param path: path of the folder, which must not exist
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    unfinished = _unfinished_name(path)
    unfinished.mkdir()
    with locked_folder(unfinished):
        try:
            yield unfinished
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def claimed_folder(path: Path, shared: bool = False) -> Iterator[None]:
    """
    Keep other processes from working in a folder at the same time. The claim ends with the block, or with this process. File
    systems without locks have no claims.

    :param path: the folder, which is created
    :param shared: whether other processes that share the folder are welcome
    :raises FileExistsError: another process works there
    """
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(path, wait=False, shared=shared))
        except BlockingIOError:
            raise FileExistsError(
                f"another process is writing to {path}: wait until it has ended, or choose another folder"
            ) from None
        except OSError:
            pass
        yield


def cannot_write(path: Path, error: OSError, remark: str = "") -> OSError:
    """
    Return an error with the same class and number, whose message names the path, and the remedy if the disk is full.

    :param path: file that cannot be written
    :param error: original error
    :param remark: text to append
    """
    remedy = "; free some space there" if error.errno in NO_SPACE else ""
    sentence = type(error)(f"{path} cannot be written: {error.strerror or error}{remedy}{remark}")
    sentence.errno = error.errno
    return sentence


def is_full_disk(error: OSError) -> bool:
    """Return whether a file could not grow, because the disk is full or because of a limit."""
    return error.errno in (*NO_SPACE, errno.EFBIG)


class _Disk(io.FileIO):
    """A file that remembers why writing failed, because writers of archives and images replace the error by their own."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        with self.remembering():
            return super().write(data)

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[_Disk]:
    """Yield a file that gets the target's name if the block ends without an error."""
    if target.exists() and not os.access(target, os.W_OK):  # os.replace would ignore the missing permission
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    sweep(target.parent)
    name = _unfinished_name(target)
    disk = _nameless(target.parent)
    is_nameless = disk is not None
    disk = disk or _named(name)
    try:
        yield disk
        with disk.remembering():
            _copy_permissions(target, disk.fileno())
            os.fsync(disk.fileno())
            if is_nameless:
                os.link(f"/proc/self/fd/{disk.fileno()}", name, src_dir_fd=disk.fileno())  # src_dir_fd makes it follow links
            elif fcntl is None:
                disk.close()  # Windows cannot move an open file
            os.replace(name, target)
    finally:
        disk.close()
        name.unlink(missing_ok=True)


def _nameless(folder: Path) -> _Disk | None:
    """Open a file without a name, which vanishes when the process ends; ``None`` if the system does not support that."""
    if not (hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")):
        return None
    try:
        disk = _Disk(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except OSError:
        return None
    _lock(disk.fileno())
    return disk


def _named(name: Path) -> _Disk:
    """Open a file that :func:`sweep` removes if the process dies; try again if that happens before the file is locked."""
    while True:
        disk = _Disk(name, "xb")
        _lock(disk.fileno())
        if os.fstat(disk.fileno()).st_nlink:
            return disk
        disk.close()


def _unfinished_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}{UNFINISHED}")


def sweep(folder: Path) -> None:
    """Remove what dead processes left behind. A living process holds a lock on what it writes."""
    for path in folder.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if path.is_dir():
                with locked_folder(path, wait=False):
                    shutil.rmtree(path)
            else:
                with path.open("rb+") as file:
                    _lock(file.fileno(), wait=False)
                    path.unlink()


@contextlib.contextmanager
def locked_folder(path: Path, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """
    Lock an existing folder until the block ends or the process dies. Windows has no such locks: nothing happens there.

    :param path: the folder, in which no file is left
    :param wait: whether to wait for another process that has locked it
    :param shared: whether other processes may have a shared lock at the same time
    :raises BlockingIOError: another process has locked the folder; only if ``wait`` is false
    :raises OSError: the file system has no locks; only if ``wait`` is false
    """
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        _lock(folder, wait, shared)
        yield
    finally:
        os.close(folder)


def _lock(file: int, wait: bool = True, shared: bool = False) -> None:
    """
    Lock a file until it is closed or the process dies.

    :raises OSError: another process holds the lock, or the file system has no locks; only if ``wait`` is false
    """
    if fcntl is not None:
        with contextlib.suppress(*([OSError] if wait else [])):
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _copy_permissions(source: Path, file: int) -> None:
    if source.exists() and hasattr(os, "fchmod"):
        there = source.stat()
        with contextlib.suppress(OSError):  # not the owner
            os.fchown(file, there.st_uid, there.st_gid)
        with contextlib.suppress(OSError):  # file system without permissions
            os.fchmod(file, there.st_mode & 0o7777)
