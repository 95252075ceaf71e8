"""Comparisons of algorithms over many seeds, and the learning claims of this package."""

from sb3_pgx.experiments.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
