"""A task that only memory solves: name the cue that was shown some steps before."""

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from support.small_environments import DEVICE

from sb3_pgx import PPO, TRPO
from sb3_pgx.tasks import Recall


class Shuffled:
    """A model whose states are those of another environment."""

    def __init__(self, model):
        self.model = model

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        if state is not None:
            state = tuple(np.roll(x, 1, axis=1) for x in state)
        return self.model.predict(observation, state, episode_start, deterministic)


def share_right(model, n_episodes=400):
    env = make_vec_env(Recall, 8, seed=100, env_kwargs=dict(delay=3))
    return evaluate_policy(model, env, n_episodes, deterministic=True, warn=False)[0]


def trained(algorithm, policy, timesteps=7_680, **kwargs):
    settings = dict(n_steps=40, seed=0, device=DEVICE, policy_kwargs=dict(lstm_hidden_size=32), gamma=0.99)
    return algorithm(policy, make_vec_env(Recall, 16, seed=0, env_kwargs=dict(delay=3)), **{**settings, **kwargs}).learn(
        timesteps
    )


PPO_SETTINGS = dict(learning_rate=3e-3, batch_size=160, n_epochs=5)
CASES = {
    "LSTM": (PPO, "MlpLstmPolicy", PPO_SETTINGS),
    "GRU": (PPO, "MlpGruPolicy", PPO_SETTINGS),
    "pieces of 5 steps": (PPO, "MlpLstmPolicy", {**PPO_SETTINGS, "sequence_length": 5}),
    "TRPO": (TRPO, "MlpLstmPolicy", dict(target_kl=0.05, batch_size=160, timesteps=24_000)),
}


@pytest.mark.parametrize("case", ["LSTM", *(pytest.param(case, marks=pytest.mark.slow) for case in [*CASES][1:])])
def test_memory_solves_it_and_shuffled_states_do_not(case):
    algorithm, policy, settings = CASES[case]
    model = trained(algorithm, policy, **settings)
    assert share_right(model) > 0.95
    # 400 episodes: 1/4 ± 4 standard errors of 0.022. A right guess needs the same cue in the environment beside.
    assert share_right(Shuffled(model)) < 0.25 + 4 * 0.022


@pytest.mark.slow
def test_a_policy_without_memory_stays_at_one_of_four():
    model = trained(PPO, "MlpPolicy", **{**PPO_SETTINGS, "policy_kwargs": dict(net_arch=[32])})
    assert share_right(model) < 0.25 + 4 * 0.022
