"""Spaces that cannot be trained in are refused before training, and those that SB3 trains in are trained in."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from support.capabilities import BOX, OwnExtractor, envs
from support.models import make
from support.refusals import refusal

from sb3_pgx.registry import ALGORITHMS


def box(*shape):
    return spaces.Box(-1, 1, shape, np.float32)


TWO_ROWS = spaces.MultiDiscrete([[2, 3], [2, 2]])


@pytest.mark.parametrize(
    "space, message",
    [
        (box(), "has no dimension: give it shape (1,)"),
        (box(0), "has no numbers: leave it out"),
        (box(3, 0), "has no numbers: leave it out"),
        (
            TWO_ROWS,
            "MultiDiscrete([[2, 3], [2, 2]]), but SB3's policies take one row of choices: flatten it, MultiDiscrete([2,",
        ),
        (spaces.Dict({}), "is an empty Dict"),
        *(
            (spaces.Dict({key: BOX}), f"the part {key!r} of the observation space has a key that cannot name a layer")
            for key in ("x.y", "", "keys", 3)
        ),
        (spaces.Dict({"a": BOX, "b": box()}), "the part 'b' of the observation space is Box"),
        (spaces.Dict({"a": BOX, "b": TWO_ROWS}), "the part 'b' of the observation space is MultiDiscrete"),
        (spaces.Dict({"a": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), "needs at least 36 × 36 pixels"),
    ],
)
def test_observations_that_sb3s_policies_cannot_take_are_refused(name, space, message):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    assert message in refusal(lambda: make(name, envs(space), policy))


@pytest.mark.parametrize(
    "space, message",
    [
        (box(0), "whose actions are empty"),
        (TWO_ROWS, "one row of choices: flatten it, MultiDiscrete([2, 3, 2, 2])"),
        (spaces.MultiBinary([2, 3]), "one row of switches: flatten it, MultiBinary(6)"),
    ],
)
def test_actions_that_sb3s_policies_cannot_give_are_refused(name, space, message):
    assert message in refusal(lambda: make(name, envs(action_space=space)))


@pytest.mark.parametrize("space", [box(), box(2, 3)])
def test_a_box_of_actions_may_have_any_number_of_dimensions(name, space):
    make(name, envs(action_space=space)).learn(24)


def test_the_wrong_policy_for_the_observations_is_refused(name):
    def refused(space, policy):
        return refusal(lambda: make(name, envs(space), policy))

    assert "takes dictionaries, but the observation space is Box(" in refused(BOX, "MultiInputPolicy")
    assert "takes arrays, but the observation space is Dict(" in refused(
        spaces.Dict({"a": BOX}), ALGORITHMS[name].policy_aliases["MlpPolicy"]
    )
    for space in (BOX, spaces.Discrete(3)):
        assert refused(space, "CnnPolicy").endswith("use MlpPolicy")
    small = envs(spaces.Box(0, 255, (35, 60, 1), np.uint8))
    assert "images of shape (1, 35, 60), but SB3's NatureCNN" in refusal(lambda: make(name, small, "CnnPolicy"))
    assert "is unknown; choose one of MlpPolicy" in refusal(lambda: make(name, envs(), "MLPPolicy"))
    assert "policy=None must be one of MlpPolicy" in refusal(lambda: make(name, envs(), None))


def test_an_extractor_of_the_users_may_take_what_sb3s_do_not():
    class Sum(FlattenExtractor):
        def __init__(self, observation_space):
            super(FlattenExtractor, self).__init__(observation_space, 1)

        def forward(self, observations):
            return sum(x.flatten(1).sum(1, keepdim=True) for x in observations.values())

    space = spaces.Dict({"x.y": BOX, "keys": BOX})
    make("ppo", envs(space), "MultiInputPolicy", policy_kwargs=dict(features_extractor_class=Sum)).learn(24)


def test_a_default_type_that_sb3s_policies_do_not_compute_in_is_refused(name):
    class Doubles(OwnExtractor):
        def forward(self, observations):
            return super().forward(observations.double())

    th.set_default_dtype(th.float64)
    try:
        assert "torch's default dtype is torch.float64, but FlattenExtractor gives" in refusal(lambda: make(name))
        doubles = dict(features_extractor_class=Doubles)
        make(name, envs(action_space=spaces.Discrete(2)), policy_kwargs=doubles).learn(24)
    finally:
        th.set_default_dtype(th.float32)
