"""Environments that step as arrays, behind SB3's interface."""

from sb3_pgx.environments.make import make_vec_env
from sb3_pgx.environments.vector_env import VectorEnvAdapter, as_vec_env

__all__ = ["VectorEnvAdapter", "as_vec_env", "make_vec_env"]
