"""REINFORCE, without and with a learned value function."""

from sb3_pgx.algorithms.reinforce.reinforce import REINFORCE
from sb3_pgx.algorithms.reinforce.reinforce_baseline import REINFORCEBaseline

__all__ = ["REINFORCE", "REINFORCEBaseline"]
