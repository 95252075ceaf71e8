"""Callbacks that say what a training is doing, for this package's algorithms and for SB3's."""

from sb3_pgx.callbacks.catalogue import METRICS
from sb3_pgx.callbacks.diagnostics import DiagnosticsCallback

__all__ = ["METRICS", "DiagnosticsCallback"]
