"""Proximal policy optimisation."""

from sb3_pgx.ppo.ppo import PPO

__all__ = ["PPO"]
