"""The replay memory in a file of its own, with the paths that SB3 takes: written whole or not at all."""

import os
import warnings
from io import BufferedIOBase
from pathlib import Path

from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_pgx.acer.replay import SegmentReplay


def save_replay(path: str | Path | BufferedIOBase, replay: SegmentReplay) -> None:
    """
    Pickle a memory. A file that is there already is replaced in one instant, by a complete one.

    :param path: of the file, ``.pkl`` if it has no suffix, or an open file
    :param replay: to save
    """
    if not isinstance(path, (str, Path)):
        return save_to_pkl(path, replay)
    path = Path(path) if Path(path).suffix else Path(f"{path}.pkl")
    if path.is_dir():  # as SB3 does
        warnings.warn(f"{path} is a folder: saving to {path}_2 instead")
        path = Path(f"{path}_2")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            save_to_pkl(file, replay)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_replay(path: str | Path | BufferedIOBase) -> SegmentReplay:
    """
    :param path: of the file, with or without ``.pkl``, or an open file; a pickle, so only from whom you trust
    :return: the memory that :func:`save_replay` wrote
    :raises ValueError: the file holds no such memory
    """
    remedy = "choose a file that save_replay_buffer of this algorithm wrote"
    try:
        replay = load_from_pkl(path)
    except OSError:  # no such file, or not readable: that says it
        raise
    except Exception as error:  # damaged or foreign bytes fail in any way
        raise ValueError(f"{path} is no replay memory, or a damaged one: {remedy}") from error
    if not isinstance(replay, SegmentReplay):
        raise ValueError(f"{path} holds a {type(replay).__name__}, no {SegmentReplay.__name__}: {remedy}")
    return replay
