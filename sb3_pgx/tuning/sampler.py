"""Gives each trial its own random stream, so that a resumed study samples what an uninterrupted one would."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from optuna.samplers import BaseSampler

from sb3_pgx.tuning.trial_records import INSTEAD_OF

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


class StreamPerTrial(BaseSampler):
    """
    Wraps a sampler so that each parameter of each trial has its own random state, which depends only on the seed, the position
    of the trial in the study and the name of the parameter. Earlier draws, in this process or in others, have no effect.

    :param make: creates the wrapped sampler from a seed
    :param seed: seed of the study
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self._make, self._seed = make, seed

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, "BaseDistribution"]:
        """Return the parameters that :meth:`sample_relative` samples. See Optuna's ``BaseSampler``."""
        return self._sampler(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, "BaseDistribution"]
    ) -> dict[str, Any]:
        """Sample parameters that depend on each other. See Optuna's ``BaseSampler``."""
        return self._sampler(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        """Sample one parameter. See Optuna's ``BaseSampler``."""
        return self._sampler(study, trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, study: "Study", trial: "FrozenTrial", name: str = "") -> BaseSampler:
        trials = study._storage.get_all_trials(
            study._study_id, deepcopy=False
        )  # Hyperband's pruner hides some trials from the study
        seeds = np.random.SeedSequence([self._seed, place(trials, trial.number), crc32(name.encode())])
        return self._make(int(seeds.generate_state(1)[0]))


def place(trials: Sequence["FrozenTrial"], number: int) -> int:
    """
    Return the number that a trial would have if no trial had been interrupted. A trial takes the place of the one it repeats.

    :param trials: all trials of the study
    :param number: number of the trial
    """
    repeats = {trial.number: trial.user_attrs[INSTEAD_OF] for trial in trials if INSTEAD_OF in trial.user_attrs}
    while number in repeats:
        number = repeats[number]
    return sum(trial.number < number and trial.number not in repeats for trial in trials)
