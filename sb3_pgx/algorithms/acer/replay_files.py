"""The replay memory in a file of its own, with the paths that SB3 takes: written whole or not at all."""

from io import BufferedIOBase
from pathlib import Path

from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_pgx.algorithms.acer.replay import SegmentReplay
from sb3_pgx.core.files import saving


def save_replay(path: str | Path | BufferedIOBase, replay: SegmentReplay) -> None:
    """
    Pickle a memory. A file that is there already is replaced in one step by a complete one.

    :param path: of the file, ``.pkl`` if it has no suffix, or an open file
    :param replay: to save
    :raises OSError: the file cannot be written; one sentence that names the path
    """
    with saving(path, "pkl") as file:
        save_to_pkl(file, replay)


def load_replay(path: str | Path | BufferedIOBase) -> SegmentReplay:
    """
    Unpickle a memory. Unpickling runs whatever code the file's author put there: load only files of people you trust.

    :param path: of the file, with or without ``.pkl``, or an open file
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
