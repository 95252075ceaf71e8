"""The gradient step: eager or compiled, clipped, and refused when something in it is not finite."""

from sb3_pgx.engine.epochs import GradientSteps, Update
from sb3_pgx.engine.follower import Follower
from sb3_pgx.engine.gradient import gradient_step
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.step import Evaluation, Objective, evaluated_values

__all__ = ["Evaluation", "Follower", "GradientSteps", "Objective", "Plan", "Update", "evaluated_values", "gradient_step"]
