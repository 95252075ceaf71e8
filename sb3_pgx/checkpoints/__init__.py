"""Checkpoints from which a run continues exactly: one file per checkpoint, written completely or not at all."""

from sb3_pgx.checkpoints.callback import CheckpointCallback
from sb3_pgx.checkpoints.folder import newest_checkpoint

__all__ = ["CheckpointCallback", "newest_checkpoint"]
