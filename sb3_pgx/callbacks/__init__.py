"""Callbacks that say what a training is doing and whether it is healthy, for this package's algorithms and for SB3's."""

from sb3_pgx.callbacks.catalogue import METRICS
from sb3_pgx.callbacks.diagnostics import DiagnosticsCallback
from sb3_pgx.callbacks.health import HealthCallback, HealthError, HealthWarning
from sb3_pgx.callbacks.healthy import DEFAULT_RULES
from sb3_pgx.callbacks.post_mortem import PostMortemCallback
from sb3_pgx.callbacks.rules import Above, Below, Fell, Grew, Outside, Parted, Rule, Source, Spiked

__all__ = [
    "DEFAULT_RULES",
    "METRICS",
    "Above",
    "Below",
    "DiagnosticsCallback",
    "Fell",
    "Grew",
    "HealthCallback",
    "HealthError",
    "HealthWarning",
    "Outside",
    "Parted",
    "PostMortemCallback",
    "Rule",
    "Source",
    "Spiked",
]
