"""Environments that step as arrays, or have several agents, behind SB3's interface; action masks, and evaluation with them."""

from sb3_pgx.environments.agents_vec_env import AgentsVecEnv
from sb3_pgx.environments.evaluation import EvalCallback, evaluate_policy
from sb3_pgx.environments.joint_env import JointEnv
from sb3_pgx.environments.make import make_vec_env
from sb3_pgx.environments.spread import spread
from sb3_pgx.environments.vector_env import VectorEnvAdapter, as_vec_env

__all__ = [
    "AgentsVecEnv",
    "EvalCallback",
    "JointEnv",
    "VectorEnvAdapter",
    "as_vec_env",
    "evaluate_policy",
    "make_vec_env",
    "spread",
]
