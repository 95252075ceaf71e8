"""The batched pass: its memory, and what it refuses."""

import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C
from sb3_pgx.stages.evaluate import MAX_NUMBERS, MAX_ROWS, chunks


def shaped(*shape):
    """A tensor that takes no memory."""
    return th.zeros(1).expand(shape)


def test_chunks_cover_all_rows_and_hold_no_more_numbers_than_allowed():
    observations = {"a": shaped(7, 2, MAX_NUMBERS // 12), "b": shaped(7, 2)}  # a sixth of what is allowed, and a little more
    assert list(chunks(observations, 7)) == [slice(0, 5), slice(5, 7)]
    assert list(chunks(shaped(2, 3, 2 * MAX_NUMBERS), 6, leading=2)) == [slice(i, i + 1) for i in range(6)]
    n = 2 * MAX_ROWS + 1
    assert list(chunks(shaped(n, 1), n)) == [slice(0, MAX_ROWS), slice(MAX_ROWS, 2 * MAX_ROWS), slice(2 * MAX_ROWS, n)]
    assert list(chunks(shaped(0, 1), 0)) == []


class NoValue(ActorCriticPolicy):
    def predict_values(self, obs):
        return super().predict_values(obs) * float("nan")


def test_a_policy_whose_values_are_not_finite_is_refused_before_the_update():
    model = A2C(NoValue, vectorised(Scripted([4])), device=DEVICE)
    with pytest.raises(ValueError, match="the policy gives values or log-probabilities that are not finite"):
        model.learn(10)
    assert model._n_updates == 0
