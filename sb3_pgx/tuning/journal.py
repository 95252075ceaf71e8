"""A journal file for Optuna's studies that stays readable if a process dies while it writes a line."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from sb3_pgx.core.files import cannot_write
from sb3_pgx.tuning.tuning_plan import GRACE_SECONDS

RECORD = b'{"op_code":'  # how Optuna begins each line
SQLITE, ZIP = b"SQLite format 3\0", b"PK\x03\x04"


class OneStepLock(JournalFileSymlinkLock):
    """
    Optuna's lock, released in one step. Optuna renames the lock before it deletes it, so a process that is killed in between
    leaves the renamed file behind.
    """

    def release(self) -> None:
        """
        Release the lock.

        :raises RuntimeError: another process has released it
        """
        try:
            os.unlink(self._lock_file)
        except OSError:
            raise RuntimeError("the lock is not held") from None


class Journal(BaseJournalBackend):
    """
    Optuna's journal file, with the same format and the same lock.

    An incomplete line comes from a process that died, or from a full disk; no process has acted on it. At the end of the file
    it is cut off before the next line is written. In the middle of the file, where another program left it, it is skipped.

    :param path: path of the file, which is created if it does not exist
    :param lock_seconds: a lock that is held for longer without a write belongs to a dead process
    :raises ValueError: the file is not a journal; it is left unchanged
    :raises OSError: the file cannot be read or created
    """

    def __init__(self, path: Path, lock_seconds: int = GRACE_SECONDS):
        self._path = Path(os.path.realpath(path))  # with a relative path, Optuna waits forever for the lock of a dead process
        _check(path)
        self._path.touch()
        self._lock = OneStepLock(str(self._path), lock_seconds)
        self._starts = [0]  # byte at which the line of each record starts, for the records read so far
        self._skipped: set[int] = set()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records, starting with this number."""
        number = min(log_number_from, len(self._starts) - 1)
        with self._path.open("rb") as file:
            file.seek(self._starts[number])
            while (line := file.readline()).endswith(b"\n"):  # a line without it is still being written
                record = _parse(line)
                if record is None:
                    self._note_skipped(file.tell() - len(line))
                    record = _parse(line[line.rfind(RECORD) :])  # another process may have continued in the same line
                if record is not None:
                    number += 1
                    if number == len(self._starts):
                        self._starts.append(file.tell())
                    if number > log_number_from:
                        yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """
        Append the records, one per line.

        :raises OSError: they cannot be written; the message names the path
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._locked() as file:
            _cut_half_line(file)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def mend(self) -> int:
        """Cut off an incomplete last line. Return its length in bytes."""
        with self._locked() as file:
            length = _cut_half_line(file)
        if length:
            print(f"{self._path}: the last entry was incomplete and is dropped; the work that it recorded is repeated")
        return length

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file for reading and appending while no other process writes to it."""
        try:
            self._lock.acquire()
            try:
                with self._path.open("ab+") as file:
                    yield file
            finally:
                self._lock.release()
        except OSError as error:
            raise cannot_write(self._path, error, "; its entries so far are kept") from None

    def _note_skipped(self, start: int) -> None:
        if start not in self._skipped:
            self._skipped.add(start)
            print(f"{self._path}: the entry at byte {start} is incomplete because a process died while writing; it is skipped")


def _check(path: Path) -> None:
    """
    Check that an existing file is a journal.

    :raises ValueError: it is not; the message says what it seems to be
    """
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"storage {path} is neither a file nor the address of a database: give the path of a file")
    with path.open("rb") as file:
        head = file.read(len(SQLITE))
    if head.startswith(SQLITE):
        raise ValueError(f"storage {path} is an SQLite database, not a journal file: write --storage sqlite:///{path}")
    if head and not head.startswith(RECORD):
        what = "a zip archive, such as a saved model" if head.startswith(ZIP) else "not the journal of a study"
        raise ValueError(f"storage {path} is {what}: give another path; this file is left unchanged")


def _cut_half_line(file: BinaryIO) -> int:
    """Cut off everything after the last newline. Return its length. No other process may write at the same time."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read() == b"\n":
        return 0
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(whole)
    return size - whole


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, ``None`` if it holds something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "op_code" in record else None
