"""Checkpoints between two iterations, and runs that continue from them exactly."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.checkpoints.callback import writes_checkpoints
from sb3_pgx.checkpoints.environments import record_episodes
from sb3_pgx.checkpoints.file import (
    check_environment,
    check_matches,
    described,
    find_checkpoint,
    read_state,
    write_checkpoint,
)
from sb3_pgx.checkpoints.folder import FolderLock, checkpoint_path, remove_old
from sb3_pgx.checkpoints.run_state import RunState, continue_run, open_logger, run_state
from sb3_pgx.checkpoints.shares import processes_of
from sb3_pgx.core.checks import check_counts
from sb3_pgx.parallel.failure import Failure
from sb3_pgx.parallel.same import check_same
from sb3_pgx.stages.saving import Saving

SelfResuming = TypeVar("SelfResuming", bound="Resuming")


class _Asked(NamedTuple):
    """A checkpoint to be written at the end of the iteration."""

    folder: Path
    name_prefix: str
    keep: int | None


class Resuming(Saving):
    """An algorithm whose runs can be interrupted and continued."""

    _continued: RunState | None = None  # where the next `learn` continues
    _iteration: int | None = None  # of the running `learn`; None: none is running
    _asked: tuple[_Asked, ...] = ()
    _locks: tuple[FolderLock, ...] = ()  # on the folders into which this `learn` writes

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_continued", "_iteration", "_asked", "_locks"]

    def save_checkpoint(self, folder: str | Path, name_prefix: str = "rl_model", keep: int | None = None) -> None:
        """
        Write a checkpoint, ``<name_prefix>_<steps>_steps.zip``, completely or not at all. :meth:`resume` continues the run
        from it, and :meth:`load` reads it as a saved model. It holds, in addition to the model: random number generators,
        environments and their wrappers, ``VecNormalize``, the replay memory, the counters of callbacks, and the log files.

        During ``learn`` it is written at the end of the iteration, after the update. If ``learn`` ends before that, it is not
        written. To write them regularly, use :class:`~sb3_pgx.checkpoints.CheckpointCallback`.

        The state of an environment is pickled, or read from MuJoCo. An environment for which neither works, such as
        LunarLander, is replayed from its last reset, if it was reset after the first checkpoint or after ``learn`` got a
        ``CheckpointCallback``. Otherwise (EnvPool, processes of gymnasium's ``AsyncVectorEnv``) the episodes restart when the
        run is resumed, and the log says so.

        Of several processes that train the model, the first one writes the state of all. Between two calls of ``learn``, all
        of them must call this.

        :param folder: folder, which is created if it is missing
        :param name_prefix: beginning of the file's name
        :param keep: how many of the newest checkpoints with this prefix stay; ``None``: all of them
        :raises OSError: the file cannot be written
        :raises RuntimeError: another process writes checkpoints into the folder
        :raises ValueError: ``keep`` is not a positive whole number, the model has no environment, or it was resumed and
            ``learn`` has not been called
        """
        if keep is not None:
            check_counts(keep=keep)
        if self.env is None:
            raise ValueError("a checkpoint needs the model's environments: pass them to load, or use save")
        if self._continued is not None:
            raise ValueError("the resumed run does not continue before learn is called: call learn first")
        asked = _Asked(Path(folder), name_prefix, keep)
        if self._iteration is None:
            with self._releasing_folders():
                self._write(asked, None, None)
        else:
            self._asked = (*self._asked, asked)

    def claim_checkpoints(self, folder: str | Path) -> None:
        """
        Reserve a folder for the checkpoints of this process until ``learn`` ends.

        :param folder: folder, which is created if it is missing
        :raises RuntimeError: another process writes checkpoints there
        """
        if self.team.is_first and all(lock.folder != Path(folder) for lock in self._locks):
            lock = FolderLock(folder)
            lock.acquire()
            self._locks = (*self._locks, lock)

    @classmethod
    def resume(cls: type[SelfResuming], path: str | Path, env: GymEnv | str, device: th.device | str = "auto") -> SelfResuming:
        """
        Load a checkpoint, so that the run continues exactly where the checkpoint was written.

        Make the environments and callbacks as in the interrupted run, and call ``learn`` with the same arguments. It continues
        the interrupted call, whatever ``reset_num_timesteps`` says: ``total_timesteps`` counts from the beginning of that
        call. The parameters at its end are bit for bit those of a run that was not interrupted, on the same machine with the
        same versions of the packages. The log goes on in the same files. Attributes of environments and callbacks come from
        the checkpoint, except for paths and other texts that their constructors take.

        All processes that train the model must call this, and must see the same file. Environments that are gathered from
        several processes may be spread over another number of them.

        Like :meth:`load`, this unpickles the file, which runs whatever code its author put there: use only files of people you
        trust.

        :param path: a checkpoint, or a folder, of which the newest complete one is taken
        :param env: the environments, made as in the interrupted run
        :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
        :return: the model
        :raises FileNotFoundError: there is no checkpoint
        :raises RuntimeError: another process writes checkpoints into the folder
        :raises ValueError: the checkpoint is damaged, or belongs to another algorithm, environment, version or number of
            processes; or the processes of the run find different checkpoints
        """
        if env is None:
            raise ValueError("env=None: a run continues in its environments; make them as in the interrupted run")
        env = cls._wrap_env(maybe_make_env(env, verbose=0))
        file = _agreed(path, env, cls.__name__)
        model: Any = cls.load(file, env, device, force_reset=False)
        processes = processes_of(env)
        state = read_state(file, 0 if processes is None else processes.rank)
        if state.iteration is None:
            env.reset()
            if model.team.is_first:
                open_logger(model, state)
            continue_run(model, None, state)
        else:
            model._continued = state
        return model

    # ------------------------------------------------------------------------------------------------ parts of learn

    @contextmanager
    def _checkpointing(self, callback: MaybeCallback) -> Iterator[RunState | None]:
        """
        Within this context, ``learn`` runs.

        :param callback: as given to ``learn``
        :return: where the run continues; ``None``: it begins
        """
        state = self._continued
        self.begin_anew()
        if self.team.from_first(writes_checkpoints(callback)):
            record_episodes({"env": self.env})
        if state is not None:
            self._last_obs = None  # the environments are reset before they get their state
            if self.team.is_first:
                open_logger(self, state)
        try:
            with self._releasing_folders():
                yield state
        finally:
            self._iteration, self._asked = None, ()

    def begin_anew(self) -> None:
        """Let the next ``learn`` continue no interrupted one."""
        self._continued = None

    @contextmanager
    def _releasing_folders(self) -> Iterator[None]:
        """Within this context, folders may be claimed; others may write there afterwards."""
        try:
            yield
        finally:
            for lock in self._locks:
                lock.release()
            self._locks = ()

    def _steps_left(self, total_timesteps: int) -> int:
        """Return how many of the interrupted call's steps are left."""
        return total_timesteps - (self.num_timesteps - self._num_timesteps_at_start)

    def _continue(self, callback: BaseCallback, state: RunState | None) -> int:
        """Return how many iterations there were so far, after everything is in the state in which it was then."""
        self._iteration = 0
        if state is None:
            return 0
        assert state.iteration is not None
        if state.logger is not None:
            self._custom_logger = self._custom_logger and state.logger.custom
        continue_run(self, callback, state)
        return state.iteration

    def _write_asked(self, callback: BaseCallback, iteration: int) -> None:
        """Write the checkpoints for which somebody has asked during the iteration that has just ended."""
        self._iteration = iteration
        asked, self._asked = self.team.from_first(self._asked), ()
        for each in asked:
            self._write(each, callback, iteration)

    def _write(self, asked: _Asked, callback: BaseCallback | None, iteration: int | None) -> None:
        states = self.team.collected(run_state(self, callback, iteration))
        error: Exception | None = None
        try:
            if self.team.is_first:
                self._write_states(asked, states)
        except Exception as raised:
            error = raised
        failure = self.team.from_first(None if error is None else Failure(error, 0))
        if failure is not None:
            raise error or failure.error()

    def _write_states(self, asked: _Asked, states: list[RunState]) -> None:
        self.claim_checkpoints(asked.folder)
        path = checkpoint_path(asked.folder, asked.name_prefix, self.num_timesteps)
        write_checkpoint(path, self, states)
        if asked.keep is not None:
            remove_old(asked.folder, asked.name_prefix, asked.keep)


def _agreed(path: str | Path, env: VecEnv, algorithm: str) -> Path:
    """
    Return a checkpoint that can be continued here, the same in all processes of the run.

    :param path: a checkpoint or a folder
    :param env: the environments
    :param algorithm: name of the class that is to continue it
    """
    error: Exception | None = None
    processes = processes_of(env)
    try:
        file = find_checkpoint(path)
        check_matches(file, algorithm)
        check_environment(file, env)
        if processes is None or processes.is_first:
            lock = FolderLock(file.parent)
            lock.acquire()
            lock.release()
        found = described(file)
    except Exception as raised:
        without_numbers = re.sub(r"\[\d+\]", "[]", str(raised))  # of the environments, which differ between processes
        error, found = raised, f"{type(raised).__name__}: {without_numbers}"
    if processes is not None:
        check_same(processes, {"the checkpoint to resume": found})
    if error is not None:
        raise error
    return file
