"""What ACER refuses, with a remedy."""

import math

import pytest
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from support.acer_models import BOX, envs, make
from support.small_environments import AnySpace, vectorised

from sb3_pgx.algorithms.acer import ACER


class WithoutActions(ActorCriticPolicy):
    """A user's policy, whose critic knows states alone."""


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(importance_clip=0.0), ["importance_clip=0.0", "positive", "math.inf"]),
        (dict(importance_clip=math.nan), ["importance_clip=nan", "positive"]),
        (dict(trust_region_delta=-1.0), ["trust_region_delta=-1.0", "negative"]),
        (dict(average_coef=1.5), ["average_coef=1.5", "[0, 1]"]),
        (dict(replay_ratio=-1), ["replay_ratio=-1", "negative"]),
        (dict(replay_ratio=math.inf), ["replay_ratio=inf", "finite"]),
        (dict(replay_batch=0), ["replay_batch=0", "at least 1"]),
        (dict(n_steps=0), ["n_steps=0", "at least 1"]),
        (dict(buffer_size=0), ["buffer_size=0", "at least 1"]),
        (dict(n_dueling_samples=0), ["n_dueling_samples=0", "at least 1"]),
        (dict(trust_region_statistics="log_probs"), ["trust_region_statistics='log_probs'", "'probs'", "'logits'"]),
        (dict(ent_coef=-0.1), ["ent_coef", "-0.1"]),
        (dict(q_coef="lin_x"), ["q_coef", "lin_x"]),
        (dict(gamma=1.1), ["gamma=1.1", "[0, 1]"]),
        (dict(buffer_size=11), ["buffer_size=11", "segment of 6 steps", "raise it to 12"]),
        (dict(replay_start=61), ["replay_start=61", "60", "Lower replay_start, or raise buffer_size"]),
        (dict(replay_start=61, buffer_size=61), ["replay_start=61", "60", "Lower replay_start, or raise buffer_size"]),
        (dict(kind="Box", replay_ratio=0), ["replay_ratio=0", "Box", "on_policy_update=True"]),
        (dict(on_policy_update=False, replay_ratio=0), ["replay_ratio=0", "on_policy_update=True"]),
    ],
    ids=lambda x: ", ".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_an_argument_that_makes_no_sense_is_named_with_its_value_and_a_remedy(given, words):
    with pytest.raises(ValueError) as error:
        make(**given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=["MultiDiscrete", "MultiBinary"])
def test_several_choices_at_once_are_refused_with_what_can_take_them(space):
    with pytest.raises(ValueError, match=r"ACER cannot act in Multi.*PPO") as error:
        make(env=vectorised(AnySpace(BOX, space)))
    assert str(space) in str(error.value)


def test_a_policy_whose_critic_knows_no_actions_is_refused():
    with pytest.raises(ValueError, match=r"WithoutActions.*derive it from sb3_pgx\.algorithms\.acer\.policies\.ACERPolicy"):
        ACER(WithoutActions, envs())
