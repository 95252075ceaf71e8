"""PPO with a penalty on the KL divergence."""

from sb3_pgx.ppo_penalty.ppo_penalty import PPOPenalty

__all__ = ["PPOPenalty"]
