"""The files that a logger writes: opened again when a run is resumed, so that its log goes on in them."""

import os
from typing import Any, NamedTuple

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    make_output_format,
)


class LoggerState(NamedTuple):
    """Folder of a logger, and the class and the place of each of its formats. ``custom``: the user has set it."""

    folder: str | None
    formats: list[tuple[type[KVWriter], str | None]]  # file or folder; None: the screen
    custom: bool


def logger_state(logger: Logger, custom: bool) -> LoggerState:
    """
    Return which files a logger writes.

    :param logger: the model's logger
    :param custom: whether the user has set it, rather than ``tensorboard_log`` and ``verbose``
    """
    return LoggerState(logger.dir, [(type(output), _place(output)) for output in logger.output_formats], custom)


def _place(output: Any) -> str | None:
    if isinstance(output, TensorBoardOutputFormat):
        return os.path.abspath(output.writer.log_dir)
    file = getattr(output, "file", None)
    is_screen = isinstance(output, HumanOutputFormat) and not output.own_file
    return None if file is None or is_screen else os.path.abspath(file.name)


def reopened(state: LoggerState) -> Logger:
    """
    Return a logger that writes into the same files. Formats that are not SB3's are missing. Text files are empty until the
    state of the run is put back, which has their content.

    :param state: result of :func:`logger_state`
    """
    outputs: list[KVWriter] = []
    for kind, place in state.formats:
        if place is None and kind is HumanOutputFormat:
            outputs.append(make_output_format("stdout", state.folder or "."))
        elif place is not None and kind in (CSVOutputFormat, HumanOutputFormat, JSONOutputFormat, TensorBoardOutputFormat):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            outputs.append(kind(place))
    return Logger(state.folder, outputs)


def forget_after(logger: Logger, step: int) -> None:
    """
    Let TensorBoard drop what was written after a step, by the process that was ended.

    :param logger: the model's logger
    :param step: the last step to keep
    """
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            folder, kind = output.writer.log_dir, type(output.writer)
            output.writer.close()
            output.writer = kind(log_dir=folder, purge_step=step + 1)
