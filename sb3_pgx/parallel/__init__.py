"""Many processes that train one model, started by ``torchrun``: who they are, and what they exchange."""

from sb3_pgx.parallel.processes import Processes, is_first, joined_processes, rank, world_size

__all__ = ["Processes", "is_first", "joined_processes", "rank", "world_size"]
