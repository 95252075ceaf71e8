"""Wrappers for use in hyperparameter files."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_pgx.core.checks import check_counts


class PlanesAsImage(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """
    Turns boolean planes ``[H, W, C]``, the observations of MinAtar's games, into an image: uint8 ``[scale * H, scale * W, C]``
    of 0 and 255. The image must be large enough for the convolutions of ``CnnPolicy``, which need at least 36 × 36 pixels.

    :param env: environment whose observations are boolean planes
    :param scale: side length of a field in pixels, at least 1
    :raises ValueError: the observations are not boolean planes, or ``scale`` is not a positive whole number
    """

    def __init__(self, env: gym.Env, scale: int = 4):
        gym.utils.RecordConstructorArgs.__init__(self, scale=scale)
        super().__init__(env)
        space = env.observation_space
        if not (isinstance(space, spaces.Box) and space.dtype == bool and len(space.shape) == 3):
            raise ValueError(f"PlanesAsImage needs boolean planes [H, W, C], and the observations are {space}")
        height, width, planes = space.shape
        check_counts(scale=scale)
        self.scale = scale
        self.observation_space = spaces.Box(0, 255, (scale * height, scale * width, planes), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """
        Return the image, ``[scale * H, scale * W, C]``.

        :param observation: boolean planes, ``[H, W, C]``
        """
        return np.where(observation, np.uint8(255), np.uint8(0)).repeat(self.scale, axis=0).repeat(self.scale, axis=1)
