"""Comparisons of algorithms over several environments and many seeds."""

from sb3_pgx.experiments.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
