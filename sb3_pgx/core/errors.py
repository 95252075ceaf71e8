"""
Tell exceptions of the user's code, which pass through unchanged, from those of torch about numbers that are not finite, which
get a clear message.
"""

import dis
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch as th
from torch import Tensor, nn

_INSIDE = (__name__.partition(".")[0], "stable_baselines3", "torch", "contextlib")
_RAISES = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}


def add_note(error: BaseException, note: str) -> None:
    """
    Add a line to an exception if Python supports notes (3.11 and later). Type, text and traceback stay the same.

    :param error: exception to extend
    :param note: line to add
    """
    if hasattr(error, "add_note"):
        error.add_note(note)


@contextmanager
def blaming_numbers(refusal: Callable[[str], Exception], place: Callable[[], str]) -> Iterator[None]:
    """
    Within this context, the user's code runs on numbers that training has produced.

    If torch's distributions reject parameters that are not finite, raise our error instead. Other exceptions pass through,
    with a note that says where they were raised.

    :param refusal: makes our error from torch's message
    :param place: returns a description of the place, such as "while the policy learned"
    """
    try:
        yield
    except Exception as error:
        what = refused_numbers(error)
        if what is not None:
            raise refusal(what) from error
        add_note(error, f"raised {place()}")
        raise


def refused_numbers(error: Exception) -> str | None:
    """
    Return torch's one-line message if a distribution rejected parameters or samples that are NaN or infinite, or a standard
    deviation of 0.

    :param error: exception to examine
    :return: the message; ``None`` for any other exception
    """
    frame = _innermost(error)[0]
    if frame is None or not _module(frame).startswith("torch.distributions"):
        return None
    distribution = frame.f_locals.get("self")
    held = {**getattr(distribution, "__dict__", {}), **frame.f_locals}
    if any(_is_bad(name, value) for name, value in held.items()):
        return first_line(error)
    return None


def is_torchs(error: Exception) -> bool:
    """
    Return whether torch raised an exception, rather than a ``raise`` statement elsewhere. Running out of memory does not
    count.

    :param error: exception to examine
    """
    if type(error) not in (RuntimeError, NotImplementedError):
        return False
    frame, instruction = _innermost(error)
    if frame is None or _module(frame).split(".")[0] == "torch":
        return True
    return frame.f_code.co_code[instruction] not in _RAISES  # errors from C++ appear at the line that called it


def raised_in(error: BaseException, module: str) -> bool:
    """
    Return whether a module raised an exception, itself or in C code that it called.

    :param error: exception to examine
    :param module: name of the module
    """
    frame, _ = _innermost(error)
    return frame is not None and _module(frame) == module


def not_finite_parameter(policy: nn.Module) -> str | None:
    """
    Return the name of the first parameter with NaN or infinity, or ``None``.

    :param policy: module to examine
    """
    return next((name for name, p in policy.named_parameters() if not th.isfinite(p).all()), None)


def first_line(error: BaseException) -> str:
    """
    Return the first line of an exception's text, or its type if it has no text.

    :param error: exception
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(value: Any) -> str:
    """
    Return a value's text without line breaks and repeated spaces.

    :param value: such as an exception, or a space, whose bounds NumPy prints in several lines
    """
    return " ".join(str(value).split())


def type_and_text(error: BaseException) -> str:
    """
    Return an exception's type and text in one line.

    :param error: exception
    """
    return f"{type(error).__name__}: {one_line(error)}"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """
    Warn, pointing at the user's line: the first one outside of this package, SB3 and torch.

    :param message: text of the warning
    :param category: class of the warning
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _module(frame).split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_bad(name: str, value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return not bool(th.isfinite(value).all()) or (name == "scale" and bool((value == 0).any()))


def _innermost(error: BaseException) -> tuple[FrameType | None, int]:
    """Return the frame that raised an exception, and the index of the instruction in it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (None, 0) if trace is None else (trace.tb_frame, trace.tb_lasti)


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
