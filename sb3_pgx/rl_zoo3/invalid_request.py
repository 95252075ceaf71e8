"""Tells mistakes of the user apart from failures during a run."""

import contextlib
from collections.abc import Iterator

from sb3_pgx.core.errors import one_line


class RunFailed(Exception):
    """A run ended early for a reason that one sentence explains."""


class InvalidRequest(Exception):
    """A request that cannot be carried out, explained in one sentence. Nothing has been trained."""


@contextlib.contextmanager
def invalid_requests() -> Iterator[None]:
    """
    Convert errors to :class:`InvalidRequest`. Wrap code that checks arguments or looks for files in this context.

    :raises InvalidRequest: the wrapped code raised an error
    """
    try:
        yield
    except (ValueError, ImportError, OSError, AssertionError) as error:
        raise InvalidRequest(one_line(error) or repr(error)) from error
