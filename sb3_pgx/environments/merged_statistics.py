"""Statistics of VecNormalize over the environments of several processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd


def gained(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return what a rollout has added to the number, sum and sum of squares of each statistic."""
    old = _running(before)
    return {
        name: tuple(x - y for x, y in zip(_sums(one), _sums(old[name]), strict=True)) for name, one in _running(after).items()
    }


def merge(statistics: dict[str, Any], before: dict[str, Any], gains: Sequence[dict[str, Any]]) -> None:
    """Set the statistics to those before a rollout and what all processes have added."""
    old = _running(before)
    for name, one in _running(statistics).items():
        count, total, squares = (sum(x) for x in zip(_sums(old[name]), *(gain[name] for gain in gains), strict=True))
        one.count, one.mean = count, total / count
        one.var = np.maximum(squares / count - one.mean**2, 0.0)


def _running(statistics: dict[str, Any]) -> dict[str, RunningMeanStd]:
    """Return the running means of VecNormalize by name: of the rewards, and of the observations or of each part of them."""
    found = {"rewards": statistics["ret_rms"]}
    observations = statistics.get("obs_rms")
    if isinstance(observations, dict):
        return {**found, **{f"observation {key}": one for key, one in observations.items()}}
    return found if observations is None else {**found, "observation": observations}


def _sums(one: RunningMeanStd) -> tuple[Any, Any, Any]:
    return one.count, one.count * one.mean, one.count * (one.var + one.mean**2)
