"""Whose fault an exception is: the user's passes through untouched, and numbers that are not finite get a sentence of ours."""

import dis
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch as th
from torch import Tensor, nn

_INSIDE = (__name__.partition(".")[0], "stable_baselines3", "torch")
_RAISES = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}


def add_note(error: BaseException, note: str) -> None:
    """Add a line to an exception, where Python has notes (from 3.11); its type, text and traceback stay as they are."""
    if hasattr(error, "add_note"):
        error.add_note(note)


@contextmanager
def blaming_numbers(refusal: Callable[[str], Exception], place: Callable[[], str]) -> Iterator[None]:
    """
    Within this context, code of the user's runs on numbers that training has produced.

    :param refusal: our error, from what torch's distributions say of parameters that are not finite
    :param place: where we are; a note on every other exception, which passes through as it is
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
    What torch's distributions say of parameters or samples that are NaN or infinite, or of a standard deviation of 0, in one
    line; ``None`` for any other exception, whatever its text is.
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
    """Whether torch raised it, and no ``raise`` statement outside of torch; running out of memory does not count."""
    if type(error) not in (RuntimeError, NotImplementedError):
        return False
    frame, instruction = _innermost(error)
    if frame is None or _module(frame).split(".")[0] == "torch":
        return True
    return frame.f_code.co_code[instruction] not in _RAISES  # what C++ raises comes from the line that called it


def raised_in(error: BaseException, module: str) -> bool:
    """Whether code of that module raised it, or what it called in C."""
    frame, _ = _innermost(error)
    return frame is not None and _module(frame) == module


def not_finite_parameter(policy: nn.Module) -> str | None:
    """The name of the first parameter with NaN or infinity, or ``None``."""
    return next((name for name, p in policy.named_parameters() if not th.isfinite(p).all()), None)


def first_line(error: BaseException) -> str:
    """The first line of its text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of something, pointing at the user's line: the first one that is neither of this package, nor of SB3 or torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _module(frame).split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_bad(name: str, value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return not bool(th.isfinite(value).all()) or (name == "scale" and bool((value == 0).any()))


def _innermost(error: BaseException) -> tuple[FrameType | None, int]:
    """The frame that raised, and the instruction in it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (None, 0) if trace is None else (trace.tb_frame, trace.tb_lasti)


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
