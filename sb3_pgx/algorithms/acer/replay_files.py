"""Save and load the replay memory. A file is written completely or not at all."""

from io import BufferedIOBase
from pathlib import Path

from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_pgx.algorithms.acer.replay import SegmentReplay
from sb3_pgx.core.files import saving


def save_replay(path: str | Path | BufferedIOBase, replay: SegmentReplay) -> None:
    """
    Pickle a replay memory. An existing file is replaced only when the new one is complete.

    :param path: path (``.pkl`` is added if it has no suffix), or an open file
    :param replay: memory to save
    :raises OSError: the file cannot be written; the message names the path
    """
    with saving(path, "pkl") as file:
        save_to_pkl(file, replay)


def load_replay(path: str | Path | BufferedIOBase) -> SegmentReplay:
    """
    Unpickle a replay memory. Unpickling runs whatever code the file's author put there: load only files from people you trust.

    :param path: path, with or without ``.pkl``, or an open file
    :return: the memory that :func:`save_replay` wrote
    :raises ValueError: the file does not hold a replay memory
    """
    remedy = "choose a file that save_replay_buffer of this algorithm wrote"
    try:
        replay = load_from_pkl(path)
    except OSError:  # missing or unreadable: the error says so
        raise
    except Exception as error:  # damaged or foreign files raise all kinds of errors
        raise ValueError(f"{path} is not a replay memory, or is damaged: {remedy}") from error
    if not isinstance(replay, SegmentReplay):
        raise ValueError(f"{path} holds a {type(replay).__name__}, not a {SegmentReplay.__name__}: {remedy}")
    return replay
