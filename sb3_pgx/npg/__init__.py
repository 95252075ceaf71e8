"""Natural policy gradient."""

from sb3_pgx.npg.npg import NPG

__all__ = ["NPG"]
