"""Recurrent models in files, which go both ways between sb3-contrib's RecurrentPPO and ours; and predicting with a state."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import sb3_contrib
from selection import each_value
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from support.models import assert_same, parameters
from support.recurrent import CELLS, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised

import sb3_pgx
from sb3_pgx import PPO, TRPO

SETTINGS = dict(n_steps=12, batch_size=12, seed=0, device=DEVICE)


def environments(n=2):
    return vectorised(*(Scripted([3, 4]) for _ in range(n)))


def recurrent_ppo(package, policy="MlpLstmPolicy", **kwargs):
    return package.RecurrentPPO(policy, environments(), policy_kwargs=policy_kwargs(**kwargs), **SETTINGS).learn(24)


def played(model, n_steps=9):
    """Return the most probable actions in two environments, with the state carried on."""
    env, state, starts, actions = environments(), None, np.ones(2, bool), []
    observations = env.reset()
    for _ in range(n_steps):
        action, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        observations, _, starts, _ = env.step(action)
        actions.append((action.copy(), *(x.copy() for x in state)))
    return actions


@pytest.mark.parametrize(
    "layout, packages", each_value(["separate", "shared"], [(sb3_contrib, sb3_pgx), (sb3_pgx, sb3_contrib)])
)
def test_a_file_goes_both_ways(packages, layout, tmp_path):
    first, second = packages
    saved = recurrent_ppo(first, layout=layout)
    saved.save(tmp_path / "model")
    loaded = second.RecurrentPPO.load(tmp_path / "model", env=environments(), device=DEVICE)
    assert_same(parameters(loaded), parameters(saved))
    for ours, theirs in zip(played(loaded), played(saved), strict=True):
        assert all(map(np.array_equal, ours, theirs))
    assert loaded.learn(24).num_timesteps == 24 and "_last_lstm_states" not in data_of(tmp_path / "model.zip")


def data_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("data").decode()


@pytest.mark.parametrize("cell, model_class", each_value(CELLS, [PPO, TRPO]))
def test_other_models_are_saved_too(cell, model_class, tmp_path):
    model = model_class(f"Mlp{cell}Policy", environments(), policy_kwargs=policy_kwargs(), **SETTINGS).learn(24)
    model.save(tmp_path / "model")
    assert "_last_memory" not in data_of(tmp_path / "model.zip")
    loaded = model_class.load(tmp_path / "model", env=environments(4), device=DEVICE)
    for ours, theirs in zip(played(loaded), played(model), strict=True):
        assert all(map(np.array_equal, ours, theirs))
    loaded.learn(48)


def test_predicting_goes_on_from_the_state_and_resets_it_where_an_episode_starts():
    model = recurrent_ppo(sb3_pgx)
    observation = np.ones((2, 2), np.float32)
    _, first = model.predict(observation)
    _, second = model.predict(observation, state=first)
    _, mixed = model.predict(observation, state=first, episode_start=np.array([True, False]))
    assert np.allclose(mixed[0][:, 0], first[0][:, 0]) and np.allclose(mixed[0][:, 1], second[0][:, 1])
    assert not np.allclose(first[0], second[0])
    assert model.predict(observation[0])[0].shape == ()


def test_evaluating_does_not_change_training():
    """Evaluation has states of its own."""
    results = []
    for n_episodes in (0, 2):
        model = PPO("MlpLstmPolicy", environments(), policy_kwargs=policy_kwargs(), **SETTINGS)
        callback = Evaluates(n_episodes) if n_episodes else None
        results.append(parameters(model.learn(72, callback=callback)))
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name].cpu(), value.cpu(), rtol=0, atol=1e-5, err_msg=name)


class Evaluates(BaseCallback):
    def __init__(self, n_episodes):
        super().__init__()
        self.n_episodes = n_episodes

    def _on_step(self):
        evaluate_policy(self.model, environments(3), self.n_episodes, deterministic=True, warn=False)
        return True


PROGRAM = """
import sys, sb3_pgx
from sb3_pgx import PPO, RecurrentPPO

print("sb3_contrib" in sys.modules)
PPO("MlpPolicy", "CartPole-v1").learn(1)
print("sb3_contrib" in sys.modules)
RecurrentPPO("MlpLstmPolicy", "CartPole-v1")
print("sb3_contrib" in sys.modules)
"""


@pytest.mark.slow
def test_contrib_is_imported_only_if_a_recurrent_policy_is_made():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "True"]


def test_an_unknown_name_is_still_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sb3_pgx' has no attribute 'RecurrentA3C'"):
        sb3_pgx.RecurrentA3C  # noqa: B018
