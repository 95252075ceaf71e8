"""The gradient step: eager or compiled, clipped, and refused when something in it is not finite."""

from sb3_pgx.common.update.eager import gradient_step
from sb3_pgx.common.update.follower import Follower
from sb3_pgx.common.update.plan import Plan
from sb3_pgx.common.update.step import Evaluation, Objective, evaluated_values
from sb3_pgx.common.update.steps import GradientSteps, Update

__all__ = ["Evaluation", "Follower", "GradientSteps", "Objective", "Plan", "Update", "evaluated_values", "gradient_step"]
