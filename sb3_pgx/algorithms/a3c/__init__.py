"""A3C: A2C in several processes that share parameters and update them without waiting for each other."""

from sb3_pgx.algorithms.a3c.a3c import A3C

__all__ = ["A3C"]
