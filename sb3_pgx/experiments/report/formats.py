"""Formats estimates for tables and sentences."""

import math

from sb3_pgx.experiments.environment_summary import Estimate
from sb3_pgx.experiments.number_format import quantity
from sb3_pgx.pages.blocks import Number


def estimate_cell(estimate: Estimate, digits: int, remark: str = "") -> Number:
    """
    Return an estimate with its interval, or with the reason why it has none.

    :param estimate: the estimate
    :param digits: digits after the decimal point
    :param remark: text to append
    """
    return Number(estimate.value, f"{estimate_text(estimate, digits)}{remark}")


def estimate_text(estimate: Estimate, digits: int) -> str:
    """Return ``450.0 [405.0, 495.0]``, or the value and the reason why there is no interval."""
    value = f"{estimate.value:.{digits}f}"
    if not math.isnan(estimate.low):
        return f"{value} {interval_text((estimate.low, estimate.high), digits)}"
    if estimate.seeds == 1:
        return f"{value} (no interval from one seed)"
    return f"{value} (no interval: {quantity(estimate.seeds, 'seed')} of the same value)"


def interval_text(interval: tuple[float, float], digits: int) -> str:
    """Return ``[405.0, 495.0]``; an infinite interval is ``no interval``."""
    low, high = interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else "no interval"
