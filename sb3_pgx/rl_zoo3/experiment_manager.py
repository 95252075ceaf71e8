"""
rl_zoo3's experiment for this package's algorithms: with their hyperparameter files, checked, and with schedules that they read
themselves. And what rl_zoo3's search needs of them.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import Trial
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.registry import ALGORITHMS, RENAMED_IN_RL_ZOO3
from sb3_pgx.rl_zoo3.invalid_request import invalid_requests
from sb3_pgx.settings.configs import (
    CLASS_DEFAULTS,
    check_expressions,
    check_hyperparameters,
    config_folder,
    is_atari,
    read_config,
)
from sb3_pgx.settings.environments import check_environment
from sb3_pgx.settings.search_spaces import arguments_of, sample_params

YAML = (".yml", ".yaml")  # what else rl_zoo3 takes is Python


class PgxExperimentManager(ExperimentManager):
    """As rl_zoo3's, also for this package's algorithms and those that are renamed."""

    def __init__(self, *args: Any, config: str | None = None, **kwargs: Any):
        super().__init__(*args, config=config, **kwargs)  # type: ignore[misc]
        if config is None:
            self.config = _published(self.algo, self.config)

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """
        As rl_zoo3's.

        :raises InvalidRequest: the hyperparameters or the environment are not what they should be
        """
        with invalid_requests():
            if Path(self.config).suffix in YAML:
                check_expressions(Path(self.config), self.env_name.gym_id)
            if self.algo in ALGORITHMS:
                self._check()
            return super().setup_experiment()

    def _check(self) -> None:
        """:raises ValueError: the file has a mistake, or settings that there is no argument for; names file, line and key"""
        path, env_id = Path(self.config), self.env_name.gym_id
        if path.suffix not in YAML:
            return  # Python, which rl_zoo3 runs
        config = read_config(path, env_id, changes=self.custom_hyperparams)
        key = config.source.rpartition(": ")[2]
        if key == CLASS_DEFAULTS or (is_atari(env_id) and key == "default"):
            wanted = [env_id, "atari" if is_atari(env_id) else "default"]
            raise ValueError(f"{path} has no settings for {env_id}: rl_zoo3 looks for {' or '.join(wanted)} there")
        if config.n_timesteps is None:
            raise ValueError(f"{config.source}: rl_zoo3 needs n_timesteps there, also where -n says another number")
        self.n_envs = config.n_envs
        check_hyperparameters(ALGORITHMS[self.algo], config)
        check_environment(env_id, dataclasses.replace(config, env_kwargs=self.env_kwargs or config.env_kwargs))

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """As rl_zoo3's, whose converters are not told in how many environments a trial trained, which bounds minibatches."""
        ours = self.algo in ALGORITHMS
        params = super().load_trial(storage, study_name, trial_id, convert and not ours)
        return arguments_of(self.algo, params, self.n_envs) if convert and ours else params

    def _preprocess_schedules(self, hyperparams: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        # rl_zoo3 knows linear schedules to 0 alone, and takes any other for one.
        return hyperparams if self.algo in ALGORITHMS else super()._preprocess_schedules(hyperparams)


def _published(algo: str, default: str) -> str:
    """The file that an algorithm's hyperparameters are in, where rl_zoo3 would take the default, in its own folder."""
    if algo in ALGORITHMS:
        return str(config_folder() / f"{algo}.yml")
    names = [name for name, theirs in RENAMED_IN_RL_ZOO3.items() if theirs == algo]
    return str(Path(default).with_stem(names[0])) if names else default


def sampler(name: str) -> Callable[[Trial, int, int, dict[str, Any]], dict[str, Any]]:
    """For rl_zoo3's table of samplers: arguments of the algorithm's constructor that a trial suggests."""

    def sample(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        return sample_params(name, trial, n_envs)

    return sample


def converter(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For rl_zoo3's table of converters: the same arguments from the parameters of a finished trial."""
    return lambda params: arguments_of(name, params)
