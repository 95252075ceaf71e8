"""Exploration noise as hyperparameter files describe it: ``noise_type`` and ``noise_std``, as in rl_zoo3."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise

KEYS = ("noise_type", "noise_std")
TYPES: dict[str, type[ActionNoise]] = {
    "normal": NormalActionNoise,
    "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise,
}


def with_action_noise(hyperparameters: Mapping[str, Any], action_space: spaces.Space, source: str) -> dict[str, Any]:
    """
    Return hyperparameters with an ``action_noise`` in place of ``noise_type`` and ``noise_std``.

    :param hyperparameters: as a file has them; unchanged if they name no noise
    :param action_space: of the environment
    :param source: where they come from, for the error
    :raises ValueError: there is no such noise
    """
    kind, std = (hyperparameters.get(key) for key in KEYS)
    rest = {name: value for name, value in hyperparameters.items() if name not in KEYS}
    if kind is None:
        return rest
    if kind not in TYPES or not isinstance(action_space, spaces.Box) or not isinstance(std, int | float):
        raise ValueError(
            f"{source}: noise_type={kind!r} must be one of {', '.join(TYPES)}, and noise_std={std!r} a number, for Box actions"
        )
    shape = action_space.shape
    return {**rest, "action_noise": TYPES[kind](np.zeros(shape), np.full(shape, float(std)))}  # type: ignore[call-arg]
