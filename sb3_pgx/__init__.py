"""The policy-gradient family for Stable-Baselines3."""

from sb3_pgx.algorithms.a2c import A2C
from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.npg import NPG
from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.algorithms.ppo_penalty import PPOPenalty
from sb3_pgx.algorithms.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.algorithms.trpo import TRPO

__version__ = "0.1.0"

__all__ = ["A2C", "ACER", "NPG", "PPO", "REINFORCE", "TRPO", "PPOPenalty", "REINFORCEBaseline"]
