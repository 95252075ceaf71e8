"""Environments that step as arrays, behind SB3's interface; action masks, and SB3's evaluation with them."""

from sb3_pgx.environments.evaluation import EvalCallback, evaluate_policy
from sb3_pgx.environments.make import make_vec_env
from sb3_pgx.environments.spread import spread
from sb3_pgx.environments.vector_env import VectorEnvAdapter, as_vec_env

__all__ = ["EvalCallback", "VectorEnvAdapter", "as_vec_env", "evaluate_policy", "make_vec_env", "spread"]
