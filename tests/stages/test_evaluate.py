"""The batched pass: its memory, and what it refuses."""

import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C
from sb3_pgx.stages import evaluate
from sb3_pgx.stages.evaluate import chunks


def test_chunks_cover_all_rows_and_hold_no_more_numbers_than_allowed(monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_NUMBERS", 60)
    observations = {"a": th.zeros(7, 2, 5), "b": th.zeros(7, 2)}  # 12 numbers a row
    assert list(chunks(observations, 7)) == [slice(0, 5), slice(5, 7)]
    assert list(chunks(th.zeros(2, 3, 100), 6, leading=2)) == [slice(i, i + 1) for i in range(6)]
    monkeypatch.setattr(evaluate, "MAX_ROWS", 4)
    assert list(chunks(th.zeros(9, 1), 9)) == [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert list(chunks(th.zeros(0, 1), 0)) == []


class NoValue(ActorCriticPolicy):
    def predict_values(self, obs):
        return super().predict_values(obs) * float("nan")


def test_a_policy_whose_values_are_not_finite_is_refused_before_the_update():
    model = A2C(NoValue, vectorised(Scripted([4])), device=DEVICE)
    with pytest.raises(ValueError, match="the policy gives values or log-probabilities that are not finite"):
        model.learn(10)
    assert model._n_updates == 0
