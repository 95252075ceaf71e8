"""The policy-gradient family for Stable-Baselines3."""

from sb3_pgx.a2c import A2C
from sb3_pgx.acer import ACER
from sb3_pgx.npg import NPG
from sb3_pgx.ppo import PPO
from sb3_pgx.ppo_penalty import PPOPenalty
from sb3_pgx.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.trpo import TRPO

__version__ = "0.1.0"

__all__ = ["A2C", "ACER", "NPG", "PPO", "REINFORCE", "TRPO", "PPOPenalty", "REINFORCEBaseline"]
