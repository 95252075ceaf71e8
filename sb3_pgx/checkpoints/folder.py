"""The checkpoints of a folder: their names, which is the newest that is complete, and which process may write there."""

import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sb3_pgx.core.errors import warn

MANIFEST, STATE = "checkpoint.json", "checkpoint.pkl"  # members that a checkpoint has in addition to those of a saved model
_NAME = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps\.zip")
_LOCK = ".checkpoints.lock"
_PATIENCE = 1.0  # seconds that a process which was just ended may take to release its lock


def checkpoint_path(folder: str | Path, name_prefix: str, num_timesteps: int) -> Path:
    """Return the path of a checkpoint; the name is that of SB3's ``CheckpointCallback``."""
    return Path(folder) / f"{name_prefix}_{num_timesteps}_steps.zip"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """
    Return what a checkpoint says about itself; ``None`` if the file is no checkpoint, but, for instance, a saved model.

    :param path: a file
    :raises ValueError: the file is incomplete or damaged
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if MANIFEST in members:
                return json.loads(archive.read(MANIFEST))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is incomplete or damaged ({error})") from error
    if "data" not in members:  # a part of a model is an archive, too, which remains where a file is cut off
        raise ValueError(f"{path} is incomplete or damaged (it lacks parts of a saved model)")
    return None


def check_complete(path: Path) -> None:
    """
    Compare all parts of a checkpoint with their checksums (CRC-32).

    :param path: a checkpoint
    :raises ValueError: the file is damaged
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is incomplete or damaged ({error})") from error
    if bad is not None:
        raise ValueError(f"{path} is damaged: the checksum of its part {bad} is wrong")


def checkpoints_in(folder: str | Path) -> list[Path]:
    """
    Return the checkpoints of a folder, the one written last first. Other files are ignored; damaged ones give a warning.

    :param folder: a folder, which need not exist
    """
    written = []
    for path in sorted(Path(folder).glob("*.zip")):
        if _NAME.fullmatch(path.name):
            try:
                manifest = read_manifest(path)
            except ValueError as error:
                warn(f"{error}: it is skipped")
                continue
            if manifest is not None:
                written.append((manifest["written"], path))
    return [path for _, path in sorted(written, reverse=True)]


def newest_checkpoint(folder: str | Path) -> Path | None:
    """
    Return the checkpoint that was written last among those that are complete; ``None`` if there is none.

    :param folder: folder of :meth:`save_checkpoint <sb3_pgx.PPO.save_checkpoint>` or of
        :class:`~sb3_pgx.checkpoints.CheckpointCallback`; it need not exist
    """
    for path in checkpoints_in(folder):
        try:
            check_complete(path)
        except ValueError as error:
            warn(f"{error}: it is skipped")
            continue
        return path
    return None


def remove_old(folder: str | Path, name_prefix: str, keep: int) -> None:
    """
    Remove all but the newest checkpoints of one name. Other files stay.

    :param folder: folder of the checkpoints
    :param name_prefix: beginning of their names
    :param keep: how many stay
    """
    named = [path for path in checkpoints_in(folder) if _NAME.fullmatch(path.name)["prefix"] == name_prefix]  # type: ignore[index]
    for path in named[keep:]:
        path.unlink(missing_ok=True)


class FolderLock:
    """
    The right to write checkpoints into a folder. It ends with the process, however that ends.

    :param folder: folder of checkpoints; it is created if it is missing
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / _LOCK)

    def __reduce__(self) -> Any:
        return FolderLock, (self.folder,)  # a copy does not have the right

    def acquire(self) -> None:
        """
        Take the right, if this object does not have it.

        :raises RuntimeError: another process has it
        """
        if self._lock.is_locked:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise RuntimeError(
                f"another process is writing checkpoints into {self.folder}: wait until it has ended, or use another folder"
            ) from None

    def release(self) -> None:
        """Give the right back."""
        self._lock.release()
