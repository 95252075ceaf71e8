"""What every refusal of this package has in common."""

import pytest


def refusal(build):
    """The error, which is ours: raised in this package, by a type that scripts catch, in one line."""
    with pytest.raises((ValueError, TypeError)) as raised:
        build()
    assert raised.traceback[-1].frame.f_globals["__name__"].startswith("sb3_pgx"), raised.value
    text = str(raised.value)
    assert "\n" not in text and len(text) > 20
    return text
