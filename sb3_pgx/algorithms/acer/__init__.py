"""Actor-critic with experience replay (Wang et al., 2017)."""

from sb3_pgx.algorithms.acer.acer import ACER

__all__ = ["ACER"]
