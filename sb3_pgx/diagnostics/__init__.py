"""Callbacks that measure a run and say whether it is healthy, for the algorithms of this package, SB3 and sb3-contrib."""

from sb3_pgx.diagnostics.conditions import Above, Below, Fell, Grew, Outside, RoseWhileOtherFell, Spiked
from sb3_pgx.diagnostics.default_rules import DEFAULT_RULES
from sb3_pgx.diagnostics.diagnostics_callback import DiagnosticsCallback
from sb3_pgx.diagnostics.health_callback import HealthCallback, HealthError, HealthWarning
from sb3_pgx.diagnostics.metrics import LOGGED_KEYS, METRICS
from sb3_pgx.diagnostics.post_mortem import PostMortemCallback
from sb3_pgx.diagnostics.rules import Rule, Source

__all__ = [
    "DEFAULT_RULES",
    "LOGGED_KEYS",
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
    "PostMortemCallback",
    "RoseWhileOtherFell",
    "Rule",
    "Source",
    "Spiked",
]
