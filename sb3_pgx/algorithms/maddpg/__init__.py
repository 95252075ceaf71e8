"""MADDPG: deterministic policies of several agents, with critics that see all of them."""

from sb3_pgx.algorithms.maddpg.maddpg import MADDPG

__all__ = ["MADDPG"]
