"""Wrappers for use in hyperparameter files."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import NatureCNN
from support.small_environments import AnySpace

from sb3_pgx.settings.wrappers import PlanesAsImage

PLANES = spaces.Box(0, 1, (3, 2, 5), bool)


def test_an_image_shows_every_field_of_a_plane_as_a_square():
    env = PlanesAsImage(AnySpace(PLANES, spaces.Discrete(2)), scale=3)
    PLANES.seed(0)
    planes = PLANES.sample()
    assert 0 < planes.sum() < planes.size
    image = env.observation(planes)
    assert env.observation_space.contains(image)
    np.testing.assert_array_equal(image, 255 * np.kron(planes, np.ones((3, 3, 1))))


def test_ten_fields_give_an_image_that_the_convolutions_can_read():
    space = PlanesAsImage(AnySpace(spaces.Box(0, 1, (10, 10, 4), bool), spaces.Discrete(2))).observation_space
    assert is_image_space(space)
    NatureCNN(spaces.Box(0, 255, (4, 40, 40), space.dtype))  # as SB3 transposes it
    with pytest.raises(RuntimeError, match="Kernel size"):
        NatureCNN(spaces.Box(0, 255, (4, 30, 30), space.dtype))


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (3, 2, 5), np.uint8), spaces.Box(0, 1, (3, 2), bool), spaces.Discrete(3)])
def test_other_observations_are_refused(space):
    with pytest.raises(ValueError, match=r"boolean planes \[H, W, C\], and the observations are "):
        PlanesAsImage(AnySpace(space, spaces.Discrete(2)))


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale={scale} must be"):
        PlanesAsImage(AnySpace(PLANES, spaces.Discrete(2)), scale=scale)
