"""Callbacks that say what a training is doing and whether it is healthy, for this package's algorithms and for SB3's."""

from sb3_pgx.diagnostics.conditions import Above, Below, Fell, Grew, Outside, Parted, Rule, Source, Spiked
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.diagnostics_callback import DiagnosticsCallback
from sb3_pgx.diagnostics.health_callback import HealthCallback, HealthError, HealthWarning
from sb3_pgx.diagnostics.metrics import METRICS
from sb3_pgx.diagnostics.post_mortem import PostMortemCallback

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
