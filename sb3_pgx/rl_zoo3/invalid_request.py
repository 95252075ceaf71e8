"""What a user got wrong, told apart from what failed while something was under way."""

import contextlib
from collections.abc import Iterator


class InvalidRequest(Exception):
    """A sentence on what was asked for and cannot be done; nothing has been trained."""


@contextlib.contextmanager
def invalid_requests() -> Iterator[None]:
    """
    Around what checks arguments and finds files.

    :raises InvalidRequest: for an error of it
    """
    try:
        yield
    except (ValueError, ImportError, OSError, AssertionError) as error:
        raise InvalidRequest(" ".join(str(error).split()) or repr(error)) from error
