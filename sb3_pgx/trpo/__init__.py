"""Trust-region policy optimisation."""

from sb3_pgx.trpo.trpo import TRPO

__all__ = ["TRPO"]
