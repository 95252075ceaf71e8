"""A batch that is larger than a rollout is the whole rollout, with a warning."""

import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from selection import mostly_slow
from support.capabilities import envs
from support.models import assert_same, make, parameters
from support.small_environments import DEVICE

from sb3_pgx import PPO, TRPO

WITH_BATCHES = ("ppo", "ppo_penalty", "npg", "trpo", "reinforce_baseline")


@pytest.mark.parametrize(
    "name, compile", [*((n, False) for n in WITH_BATCHES), *mostly_slow([(n, True) for n in WITH_BATCHES], [("ppo", True)])]
)
def test_a_batch_larger_than_a_rollout_is_the_whole_rollout(name, compile, graphs):
    argument = "critic_batch_size" if name == "reinforce_baseline" else "batch_size"
    whole = 10 if name == "reinforce_baseline" else 12
    results = []
    for size in (whole, 1000):
        model = make(name, **{argument: size}, compile=compile).learn(48)
        results.append(parameters(model))
    assert_same(*results)


@pytest.mark.parametrize("ours, theirs", [(PPO, sb3.PPO), (TRPO, sb3_contrib.TRPO)])
def test_a_batch_larger_than_a_rollout_is_warned_of_as_by_sb3(ours, theirs):
    for algorithm in (theirs, ours):
        with pytest.warns(UserWarning, match="mini-batch"):
            algorithm("MlpPolicy", envs(), n_steps=6, batch_size=13, device=DEVICE)


def test_a_batch_larger_than_a_rollout_trains_as_sb3s():
    results = []
    for algorithm in (sb3.PPO, PPO):
        model = algorithm("MlpPolicy", envs(), n_steps=6, batch_size=64, seed=0, device=DEVICE)
        results.append(parameters(model.learn(48)))
    theirs, ours = results
    for key, value in theirs.items():
        th.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
