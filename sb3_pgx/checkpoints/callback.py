"""Write checkpoints while a model trains."""

from typing import Any

from stable_baselines3.common.callbacks import CheckpointCallback as SB3CheckpointCallback

from sb3_pgx.checkpoints.object_graph import nodes_of
from sb3_pgx.core.checks import check_counts


class CheckpointCallback(SB3CheckpointCallback):
    """
    SB3's ``CheckpointCallback``, whose files also hold the state of the run, so that :meth:`resume <sb3_pgx.PPO.resume>`
    continues it exactly. As SB3's, the files can be loaded as models.

    A checkpoint is written at the end of the iteration in which it becomes due, after the update: the number in the name of
    the file is that of the steps until then. If ``learn`` ends before that, as when a callback stops it, it is not written.

    :param save_freq: calls of ``env.step`` between two checkpoints. Smaller values lose fewer steps when a run is interrupted;
        writing takes milliseconds for a small policy, longer for a large replay memory
    :param save_path: folder of the checkpoints. Only one process may write there at a time
    :param name_prefix: beginning of the names: ``<name_prefix>_<steps>_steps.zip``
    :param save_replay_buffer: also write the replay memory, which each checkpoint holds, into a file of its own
    :param save_vecnormalize: also write the statistics of ``VecNormalize``, which each checkpoint holds, into a file of their
        own
    :param verbose: 2 prints the path of each checkpoint
    :param keep: how many of the newest checkpoints stay; ``None``: all of them
    :raises ValueError: ``save_freq`` or ``keep`` is not a positive whole number
    :raises RuntimeError: another process writes checkpoints into the folder
    """

    only_reads = True  # not of subclasses, see core/deferred_values.py

    def __init__(
        self,
        save_freq: int,
        save_path: str,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        save_vecnormalize: bool = False,
        verbose: int = 0,
        keep: int | None = None,
    ):
        check_counts(save_freq=save_freq, **({} if keep is None else {"keep": keep}))
        super().__init__(save_freq, save_path, name_prefix, save_replay_buffer, save_vecnormalize, verbose)
        self.keep, self._is_due = keep, False

    def _init_callback(self) -> None:
        super()._init_callback()
        if not hasattr(self.model, "save_checkpoint"):
            raise TypeError(
                f"sb3_pgx.checkpoints.CheckpointCallback needs an algorithm of sb3_pgx, and {type(self.model).__module__}."
                f"{type(self.model).__name__} is none: use stable_baselines3.common.callbacks.CheckpointCallback"
            )
        model: Any = self.model
        model.claim_checkpoints(self.save_path)

    def _on_step(self) -> bool:
        self._is_due = self._is_due or self.n_calls % self.save_freq == 0
        return True

    def on_update_end(self, metrics: dict[str, float]) -> None:
        """
        Write the checkpoint if it is due.

        :param metrics: of the update, not used
        """
        if not self._is_due:
            return
        self._is_due = False
        model: Any = self.model
        model.save_checkpoint(self.save_path, self.name_prefix, self.keep)
        if self.save_replay_buffer and getattr(model, "replay_buffer", None) is not None:
            model.save_replay_buffer(self._checkpoint_path("replay_buffer_", "pkl"))
        if self.save_vecnormalize and model.get_vec_normalize_env() is not None:
            model.get_vec_normalize_env().save(self._checkpoint_path("vecnormalize_", "pkl"))
        if self.verbose >= 2:
            print(f"Saving checkpoint to {self._checkpoint_path(extension='zip')}")


def writes_checkpoints(callback: Any) -> bool:
    """
    Return whether a :class:`CheckpointCallback` is among the callbacks.

    :param callback: as ``learn`` takes it
    """
    given = callback if isinstance(callback, list) else [callback]
    nodes = nodes_of({str(i): each for i, each in enumerate(given)})
    return any(isinstance(node, CheckpointCallback) for node in nodes.values())
