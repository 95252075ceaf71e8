"""Statistics of VecNormalize over the rows that count."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx.environments.carrying import Carrying


@contextmanager
def counting_valid_rows(normalize: VecNormalize, adapter: Carrying) -> Iterator[None]:
    """
    While the context is open, ``VecNormalize`` counts each observation in which a policy acts once, and no reward of a step
    that only resets.

    Where environments reset in the step after an episode's end, the end's observation comes first, and that of the reset with
    the next step. SB3 counts the latter alone.

    :param normalize: wrapper of the environments
    :param adapter: the environments themselves
    """
    observations: Any = getattr(normalize, "obs_rms", {})
    of_observations = list(observations.values()) if isinstance(observations, dict) else [observations]
    counted: list[tuple[RunningMeanStd, str]] = [(rms, "acted_on") for rms in of_observations]
    counted.append((normalize.ret_rms, "rewarded"))
    for statistics, rows in counted:
        vars(statistics)["update"] = _update(statistics, adapter, rows)
    try:
        yield
    finally:
        for statistics, _ in counted:
            del vars(statistics)["update"]


def _update(statistics: RunningMeanStd, adapter: Carrying, rows: str) -> Any:
    def update(values: np.ndarray) -> None:
        counted = values[getattr(adapter, rows)]
        if len(counted):
            type(statistics).update(statistics, counted)

    return update
