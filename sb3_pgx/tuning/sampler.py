"""Draws for each trial from a random stream of its own, so that a study goes on as if nothing had interrupted it."""

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
    Another sampler, with a new random state for each parameter of each trial. It follows from the seed, the place of the trial
    in the study and the parameter's name. What was drawn before, in this process or in another one, does not matter.

    :param make: the other sampler from its seed
    :param seed: of the study
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self._make, self._seed = make, seed

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, "BaseDistribution"]:
        return self._sampler(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, "BaseDistribution"]
    ) -> dict[str, Any]:
        return self._sampler(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        return self._sampler(study, trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, study: "Study", trial: "FrozenTrial", name: str = "") -> BaseSampler:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)  # Hyperband's pruner shows only a part of them
        seeds = np.random.SeedSequence([self._seed, place(trials, trial.number), crc32(name.encode())])
        return self._make(int(seeds.generate_state(1)[0]))


def place(trials: Sequence["FrozenTrial"], number: int) -> int:
    """
    Number that a trial would have if no trial had been interrupted: a trial takes the place of the one that it repeats.

    :param trials: of the study
    :param number: of the trial
    """
    repeats = {trial.number: trial.user_attrs[INSTEAD_OF] for trial in trials if INSTEAD_OF in trial.user_attrs}
    while number in repeats:
        number = repeats[number]
    return sum(trial.number < number and trial.number not in repeats for trial in trials)
