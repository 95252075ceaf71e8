"""
Adapts rl_zoo3's ``ExperimentManager`` and its hyperparameter search to this package's algorithms: their hyperparameter files
are used and checked, and the algorithms read schedules themselves.
"""

import dataclasses
import inspect
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_sb3 import EnvironmentName
from optuna import Trial
from rl_zoo3.callbacks import SaveVecNormalizeCallback, TrialEvalCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.callbacks import CheckpointCallback as SB3CheckpointCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint
from sb3_pgx.core.files import cannot_write, claimed_folder, is_full_disk, replacing, saving
from sb3_pgx.environments import EvalCallback, make_vec_env
from sb3_pgx.environments.evaluation import EndlessEvaluation
from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM, OFF_POLICY, RENAMED_IN_RL_ZOO3
from sb3_pgx.rl_zoo3.episode_log import LoggedVectorEnv, with_all_ends
from sb3_pgx.rl_zoo3.invalid_request import RunFailed, invalid_requests
from sb3_pgx.settings.configs import (
    CLASS_DEFAULTS,
    DUMMY,
    RunConfig,
    check_expressions,
    check_hyperparameters,
    check_vec_env,
    config_folder,
    read_config,
    settings_name,
)
from sb3_pgx.settings.environments import (
    AS_ARRAYS,
    ONE_BY_ONE,
    check_environment,
    check_steps_that_only_reset,
    choose_policy,
    find_environment,
)
from sb3_pgx.settings.search_spaces import arguments_of, sample_params

YAML = (".yml", ".yaml")  # rl_zoo3 executes any other file as Python


class SavedWhole:
    """
    A model whose file is replaced completely or not at all, as those of this package. Everything else is the model's own.

    :param model: model of any package
    """

    def __init__(self, model: BaseAlgorithm):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def save(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Save the model. Arguments are those of the model's ``save``."""
        with saving(path, "zip") as file:
            self._model.save(file, *args, **kwargs)


class SavesWhole(BaseCallback):
    """In front of a callback's class: its step saves the model as a whole file."""

    def _on_step(self) -> bool:
        model, self.model = self.model, SavedWhole(self.model)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model


class PgxEvalCallback(SavesWhole, EvalCallback):
    """The package's ``EvalCallback``, which saves the best model of any package as a whole file."""

    only_reads = True


class PgxCheckpointCallback(SavesWhole, SB3CheckpointCallback):
    """SB3's ``CheckpointCallback`` for algorithms of other packages; each file is replaced completely or not at all."""


class PgxTrialEvalCallback(TrialEvalCallback, EvalCallback):
    """rl_zoo3's ``TrialEvalCallback``, with the environments' action masks."""


class PgxSaveVecNormalizeCallback(SaveVecNormalizeCallback):
    """rl_zoo3's callback, which keeps one file here. The file is replaced completely or not at all."""

    reads_results = False  # of the evaluation that calls it

    def _on_step(self) -> bool:
        normalize = self.model.get_vec_normalize_env()
        if self.n_calls % self.save_freq == 0 and normalize is not None:
            with replacing(Path(self.save_path, "vecnormalize.pkl")) as file:
                pickle.dump(normalize, file)
        return True


class PgxExperimentManager(ExperimentManager):
    """rl_zoo3's ``ExperimentManager``, extended to this package's algorithms and to the renamed ones."""

    def __init__(self, *args: Any, config: str | None = None, vec_env: str | None = None, resume: bool = False, **kwargs: Any):
        """
        Arguments are those of rl_zoo3's.

        :param vec_env: how the environments step, instead of what the hyperparameter file says
        :param resume: continue the newest run of the same algorithm and environment, if it has a checkpoint
        """
        super().__init__(*args, config=config, **kwargs)  # type: ignore[misc]
        if config is None:
            self.config = _published(self.algo, self.config)
        if vec_env is not None:
            self.args.vec_env = vec_env  # which rl_zoo3 saves
            self.custom_hyperparams = {**(self.custom_hyperparams or {}), "vec_env": vec_env}
        self.vec_env = DUMMY
        self._numbered = not kwargs.get("uuid_str")  # otherwise the folder's name is unique
        self._claim = ExitStack()
        self._made: str | None = None  # the run's folder, if it is new
        self._saved: Path | None = None  # the trained model
        self._checkpoint = self._continue_newest_run() if resume else None

    def _continue_newest_run(self) -> Path | None:
        """Write into the folder of the newest run, and return its newest checkpoint; ``None`` if it has none."""
        folder = Path(self.log_path, f"{self.env_name}_{get_latest_run_id(self.log_path, self.env_name)}")
        checkpoint = newest_checkpoint(folder)
        if checkpoint is not None:
            print(f"Resuming {checkpoint}")
            self.save_path, self.params_path = str(folder), str(folder / self.env_name)
        return checkpoint

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """
        Check the settings, and create the model.

        :raises InvalidRequest: the hyperparameters or the environment have a mistake
        """
        with invalid_requests():
            if Path(self.config).suffix in YAML:
                check_expressions(Path(self.config), self.env_name.gym_id)
            if self.algo in EVERY_ALGORITHM:
                self._check()
            elif Path(self.config).suffix in YAML and settings_name(Path(self.config), self.env_name.gym_id) == "default":
                self._choose_policy(read_config(Path(self.config), self.env_name.gym_id, changes=self.custom_hyperparams))
            try:
                with self._naming_full_disk():
                    experiment = super().setup_experiment()
            except Exception:
                if self._made is not None:  # it holds nothing but the settings of a run that did not start
                    shutil.rmtree(self._made, ignore_errors=True)
                raise
            if self._checkpoint is None or experiment is None:
                return experiment
            model, hyperparameters = experiment
            return EVERY_ALGORITHM[self.algo].resume(self._checkpoint, model.env, self.device), hyperparameters  # type: ignore[arg-type]

    def create_log_folder(self) -> None:
        """
        Create the run's folder, and keep other processes out of it. If another run has taken its number, take the next one.

        :raises FileExistsError: another process resumes the same run
        """
        while self._checkpoint is None and self._numbered:
            try:
                os.makedirs(self.save_path)
                self._made = self.save_path
                break
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"
        self._claim.enter_context(claimed_folder(Path(self.save_path)))
        super().create_log_folder()

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train. If the run is interrupted, rl_zoo3 saves the model; say how to go on with it.

        :raises RunFailed: the disk is full, or an evaluation would never end
        """
        self._warn_of_short_run(model)
        with self._explaining(model):
            super().learn(model)
        if model.num_timesteps < self.n_timesteps:
            print(
                f"The run ended after {model.num_timesteps} of {self.n_timesteps} steps. Its model is kept; to train it "
                f"further, use --trained-agent {self.save_path}/{self.env_name}.zip{self._resume(', or ')}"
            )

    def _warn_of_short_run(self, model: BaseAlgorithm) -> None:
        """Say what happens if the run is shorter than a rollout, or ends before learning starts."""
        steps = self.n_timesteps
        has_n_steps = "n_steps" in inspect.signature(type(model)).parameters  # other rollouts are whole episodes
        if isinstance(model, OnPolicyAlgorithm) and has_n_steps and steps < (rollout := model.n_steps * model.n_envs):
            print(
                f"One rollout has {rollout} steps (n_envs={model.n_envs} times n_steps={model.n_steps}), so the run takes "
                f"{rollout} steps instead of {steps}; -params n_steps:{max(steps // model.n_envs, 1)} makes rollouts shorter"
            )
        elif isinstance(model, OffPolicyAlgorithm) and steps <= model.learning_starts:
            print(f"Nothing is learned in {steps} steps: learning starts after {model.learning_starts} (learning_starts)")

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save the model, and what belongs to it, as rl_zoo3 does. Each file is replaced completely or not at all.

        :raises RunFailed: the disk is full
        """
        with self._explaining(model):
            print(f"Saving to {self.save_path}")
            path = Path(self.save_path, f"{self.env_name}.zip")
            with saving(path, "zip") as file:
                model.save(file)
            self._saved = path
            if self.save_replay_buffer and isinstance(model, OffPolicyAlgorithm):
                print("Saving replay buffer")
                with saving(Path(self.save_path, "replay_buffer.pkl"), "pkl") as file:
                    model.save_replay_buffer(file)
            if self.normalize:
                with replacing(Path(self.params_path, "vecnormalize.pkl")) as file:
                    pickle.dump(model.get_vec_normalize_env(), file)

    @contextmanager
    def _explaining(self, model: BaseAlgorithm) -> Iterator[None]:
        """Within this context, a run that cannot go on ends with a sentence. Other errors keep their traceback."""
        try:
            with self._naming_full_disk():
                yield
        except (EndlessEvaluation, OSError) as error:
            if isinstance(error, OSError) and not is_full_disk(error):
                raise
            done = f"{model.num_timesteps} of {self.n_timesteps} steps"
            saved = f", and its model is kept in {self._saved}" if self._saved else ", and its model is not saved"
            then = self._resume(": ") or saved
            raise RunFailed(f"{error}. The run ended after {done}{then}") from None

    def _resume(self, link: str) -> str:
        """Return how to resume the run, after a link; nothing if it has no checkpoint that can be resumed."""
        if newest_checkpoint(self.save_path) is None:
            return ""
        return f"{link}the same command with --resume continues from its newest checkpoint"

    @contextmanager
    def _naming_full_disk(self) -> Iterator[None]:
        """Within this context, the error of a full disk names a path, which those of SB3 and rl_zoo3 do not."""
        try:
            yield
        except OSError as error:
            if error.strerror is None or not is_full_disk(error):  # our own errors have a sentence instead
                raise
            raise cannot_write(Path(error.filename or self.save_path), error) from None

    def create_callbacks(self) -> None:
        """
        Create rl_zoo3's callbacks. Checkpoints of algorithms with rollouts are whole ones, which can be resumed. Those of
        off-policy algorithms have a large replay memory, so they are written beside rl_zoo3's, and only the newest one stays.
        """
        super().create_callbacks()
        for callback in self.callbacks:
            if not isinstance(callback, EvalCallback):
                continue
            saver = callback.callback_on_new_best
            if type(saver) is SaveVecNormalizeCallback:
                callback.callback_on_new_best = PgxSaveVecNormalizeCallback(saver.save_freq, saver.save_path)
                callback.callback_on_new_best.parent = callback
        written = [c for c in self.callbacks if type(c) is PgxCheckpointCallback]
        if self.algo in OFF_POLICY:
            self.callbacks += [CheckpointCallback(c.save_freq, c.save_path, "rl_checkpoint", keep=1) for c in written]
        if self.algo in ALGORITHMS:
            self.callbacks = [
                CheckpointCallback(c.save_freq, c.save_path, c.name_prefix, verbose=c.verbose)
                if type(c) is PgxCheckpointCallback
                else c
                for c in self.callbacks
            ]

    def _check(self) -> None:
        """
        Check the settings of one of this package's algorithms.

        :raises ValueError: the file has a mistake or an unknown hyperparameter; the message names file, line and key
        """
        path, env_id = Path(self.config), self.env_name.gym_id
        if path.suffix not in YAML:
            return  # a Python file, which rl_zoo3 executes
        config = read_config(path, env_id, changes=self.custom_hyperparams)
        if config.source == CLASS_DEFAULTS:
            raise ValueError(f"{path} has no settings for {env_id}: rl_zoo3 needs an entry {env_id} or default")
        if config.n_timesteps is None:
            raise ValueError(f"{config.source}: rl_zoo3 needs n_timesteps there, even if -n gives another number")
        self.n_envs = config.n_envs
        check_hyperparameters(EVERY_ALGORITHM[self.algo], config)
        self._choose_policy(config)

    def _choose_policy(self, config: RunConfig) -> None:
        """Let the observations decide on the policy, unless the user has given one."""
        algorithm = ALGOS[self.algo]
        config = dataclasses.replace(config, env_kwargs=self.env_kwargs or config.env_kwargs)
        space = check_environment(self.env_name.gym_id, config, algorithm).observation_space
        self.custom_hyperparams = {
            "policy": choose_policy(config, space, algorithm).policy,
            **(self.custom_hyperparams or {}),
        }

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the hyperparameters and how the environments step. Return those for the algorithm, and all of them."""
        env_name = self.env_name
        if Path(self.config).suffix in YAML and (name := settings_name(Path(self.config), env_name.gym_id)) is not None:
            self.env_name = EnvironmentName(name)  # the entry that rl_zoo3 shall read
        try:
            hyperparams, saved = super().read_hyperparameters()
        finally:
            self.env_name = env_name
        if "vec_env" in hyperparams:
            self.vec_env = check_vec_env(hyperparams.pop("vec_env"))
            self.vec_env_class = ONE_BY_ONE.get(self.vec_env, self.vec_env_class)
        return hyperparams, saved

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments with their wrappers."""
        if self.vec_env in AS_ARRAYS:
            kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
            folder = None if eval_env or no_log else Path(self.save_path)
            # rl_zoo3 calls this with functions that make single environments.
            self.vec_env_class = lambda makers: self._arrays(len(makers), kwargs, folder)  # type: ignore[assignment]
            return super().create_envs(n_envs, eval_env, no_log)
        wrapper = self.env_wrapper
        if wrapper is not None:
            self.env_wrapper = partial(with_all_ends, wrapper)
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            self.env_wrapper = wrapper

    def _arrays(self, n_envs: int, env_kwargs: dict[str, Any], folder: Path | None) -> VecEnv:
        """Make environments that step as arrays; their episodes are logged to a folder, if there is one."""
        name, arrays = find_environment(self.env_name.gym_id, self.vec_env).id, AS_ARRAYS[self.vec_env]
        env: Any = make_vec_env(name, n_envs, self.seed, arrays, env_kwargs=env_kwargs, wrapper_class=self.env_wrapper)
        check_steps_that_only_reset(env, self.frame_stack, ALGOS[self.algo])
        return env if folder is None else LoggedVectorEnv(env.vector_env, folder, name)

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """Load a trial's hyperparameters. rl_zoo3's converters do not get ``n_envs``, which bounds minibatches; ours does."""
        ours = self.algo in EVERY_ALGORITHM
        params = super().load_trial(storage, study_name, trial_id, convert and not ours)
        return arguments_of(self.algo, params, self.n_envs) if convert and ours else params

    def _preprocess_schedules(self, hyperparams: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        # rl_zoo3 treats every schedule as linear decay to 0.
        return hyperparams if self.algo in EVERY_ALGORITHM else super()._preprocess_schedules(hyperparams)


def _published(algo: str, default: str) -> str:
    """Return the hyperparameter file of an algorithm; ``default`` is the one that rl_zoo3 would use."""
    if algo in EVERY_ALGORITHM:
        return str(config_folder() / f"{algo}.yml")
    names = [name for name, theirs in RENAMED_IN_RL_ZOO3.items() if theirs == algo]
    return str(Path(default).with_stem(names[0])) if names else default


def sampler(name: str) -> Callable[[Trial, int, int, dict[str, Any]], dict[str, Any]]:
    """Return a function for rl_zoo3's table of samplers: it returns the constructor arguments that a trial suggests."""

    def sample(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        return sample_params(name, trial, n_envs)

    return sample


def converter(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function for rl_zoo3's table of converters: from parameters of a trial to constructor arguments."""
    return lambda params: arguments_of(name, params)
