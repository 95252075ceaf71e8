"""What a user got wrong, told apart from what failed while something was under way."""

import contextlib
from collections.abc import Iterator


class Refusal(Exception):
    """A sentence on what was asked for and cannot be done; nothing has been trained."""


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """
    Around what checks arguments and finds files.

    :raises Refusal: for an error of it
    """
    try:
        yield
    except (ValueError, ImportError, OSError, AssertionError) as error:
        raise Refusal(" ".join(str(error).split()) or repr(error)) from error
