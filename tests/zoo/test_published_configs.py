"""Every entry of ``zoo_configs/`` for our algorithms makes a model that trains."""

import gymnasium as gym
import pytest
import torch as th
import yaml
from problems import DEVICE

from sb3_pgx.registry import ALGORITHMS
from sb3_pgx.zoo.configs import config_folder, load_config
from sb3_pgx.zoo.environments import make_train_env

ENTRIES = [
    (algorithm, env_id)
    for algorithm in ALGORITHMS
    if (path := config_folder() / f"{algorithm}.yml").exists()
    for env_id in yaml.safe_load(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("algorithm, env_id", ENTRIES)
def test_every_entry_trains(algorithm, env_id, graphs):
    config = load_config(algorithm, env_id)
    assert config.source == f"{algorithm}.yml: {env_id}" and config.n_timesteps
    if env_id == "atari":  # the zoo's name for all of its games
        gym.register_envs(pytest.importorskip("ale_py", reason="Atari is not installed"))
        env_id = "PongNoFrameskip-v4"
    if "mujoco" in str(gym.spec(env_id).entry_point):
        pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    env = make_train_env(config, env_id, seed=0)
    model = ALGORITHMS[algorithm](config.policy, env, seed=0, device=DEVICE, **config.hyperparameters)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(config.n_timesteps, callback=lambda locals_, _: locals_["self"]._n_updates < 1)
    assert model._n_updates >= 1
    assert any(not th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
