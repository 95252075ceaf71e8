"""The gradient step: eager or compiled, clipped, and refused when something in it is not finite."""

from sb3_pgx.engine.accumulated_step import accumulated_step
from sb3_pgx.engine.follower import Follower
from sb3_pgx.engine.gradient_steps import GradientSteps
from sb3_pgx.engine.objective import Objective, evaluated_values
from sb3_pgx.engine.open_update import Update, open_update
from sb3_pgx.engine.plan import Plan

__all__ = [
    "Follower",
    "GradientSteps",
    "Objective",
    "Plan",
    "Update",
    "accumulated_step",
    "evaluated_values",
    "open_update",
]
