"""Reads amounts and durations as people write them: ``40000``, ``40k``, ``1e5``, ``90``, ``15m``."""

import math
import re

PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
NUMBER = r"([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)"


def read_amount(text: str) -> int:
    """
    Read a whole number such as ``40000``, ``40_000``, ``40k``, ``1.5M`` or ``1e5``.

    :param text: the number
    :raises ValueError: it is something else
    """
    value = _read(text, PREFIXES)
    if value is None or not value.is_integer():
        raise ValueError(f"{text!r} is not a whole number: write it as 40000, 40k or 4e4")
    return int(value)


def read_duration(text: str) -> float:
    """
    Read seconds, such as ``90``, ``90s``, ``15m``, ``2h`` or ``1d``.

    :param text: the duration
    :raises ValueError: it is something else, or not above 0
    """
    value = _read(text, SECONDS)
    if value is None or not value > 0:
        raise ValueError(f"{text!r} is not a duration: write it as 90 (seconds), 15m or 2h")
    return value


def _read(text: str, units: dict[str, int]) -> float | None:
    match = re.fullmatch(rf"{NUMBER}\s*([a-z]?)", text.strip().lower())
    if match is None or match[2] not in units:
        return None
    value = float(match[1].replace("_", "").replace(",", "")) * units[match[2]]
    return value if math.isfinite(value) else None
