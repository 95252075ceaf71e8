"""The batched pass: its memory, and what it refuses."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import BOX, DICT
from support.eager_and_compiled import Sentences, envs
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, PPO
from sb3_pgx.core.rollout import map_tensors
from sb3_pgx.stages.evaluate import MAX_NUMBERS, MAX_ROWS, chunks

FIVE = spaces.Discrete(5)


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


@pytest.mark.parametrize(
    "policy, observations, actions",
    [("MlpPolicy", BOX, BOX), pytest.param("MultiInputPolicy", DICT, FIVE, marks=pytest.mark.slow)],
)
def test_many_rows_are_evaluated_by_one_graph_and_the_rest_by_the_policy(policy, observations, actions, graphs):
    """65 steps of 64 environments: 4,096 rows at once and 64 more."""
    differences = []

    class Compared(PPO):
        def train(self):
            rollout = self.last_rollout
            with th.no_grad():
                inputs = map_tensors(lambda x: x.flatten(end_dim=1), rollout.observations)
                taken = rollout.actions.flatten(end_dim=1 if actions is BOX else -1)
                values, log_prob, _ = self.policy.evaluate_actions(inputs, taken)
            differences.append((rollout.values.flatten() - values.flatten()).abs().max())
            differences.append((rollout.log_prob.flatten() - log_prob).abs().max())
            super().train()

    model = Compared(
        policy, envs(observations, actions, 64), n_steps=65, batch_size=4160, n_epochs=1, device=DEVICE, compile=True
    )
    model.set_logger(Logger(None, [log := Sentences()]))
    model.learn(2 * 4160)
    assert len(differences) == 4 and max(differences) < 1e-5
    assert log.sentences.count("the evaluation of rows is compiled") == 1
