"""Rollouts regrouped into episodes, by hand."""

import pytest
import torch as th
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import REINFORCE
from sb3_pgx.algorithms.reinforce.episodes import Episodes


@pytest.fixture
def rollout():
    """Two episodes from each of three environments: lengths 2, 3; 1, 1; 4, 1. The rows after them do not count."""
    envs = vectorised(Scripted([2, 3]), Scripted([1, 1]), Scripted([4, 1]))
    return REINFORCE("MlpPolicy", envs, n_episodes=2, device=DEVICE).learn(15).last_rollout


def test_every_episode_is_a_column_environment_after_environment(rollout):
    episodes = Episodes.of(rollout)
    assert len(episodes) == 6
    steps = episodes.columns(rollout.observations[..., 1])  # the number of the step, from 0
    alive = episodes.columns(rollout.valid)
    assert alive.sum(dim=0).tolist() == [2, 3, 1, 1, 4, 1]
    assert steps.T[4].tolist() == [0, 1, 2, 3] and steps.T[1].tolist() == [0, 1, 2, 0]
    which = episodes.columns(rollout.observations[..., 0] + 1)  # the number of the episode in its environment, from 1
    assert which[0].tolist() == [1, 2, 1, 2, 1, 2]
    assert not steps[~alive].any()


def test_columns_go_back_to_the_rows_that_they_came_from(rollout):
    episodes = Episodes.of(rollout)
    assert th.equal(episodes.back(episodes.columns(rollout.rewards)), rollout.rewards * rollout.valid)


def test_discounts_count_from_each_episodes_start(rollout):
    result = Episodes.of(rollout).discounts(0.5, th.float64)
    assert result.T.tolist() == [[1, 0.5, 1, 0.5, 0.25], [1, 1, 0, 0, 0], [1, 0.5, 0.25, 0.125, 1]]
