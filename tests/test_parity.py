"""A2C and PPO against SB3's on the same seed: actions, parameters, random numbers and log."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from capabilities import BOX, DICT, envs
from gymnasium import spaces
from problems import DEVICE, Scripted, vectorised
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

import sb3_pgx

CASES = {
    "CartPole-v1": lambda: ("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), {}),
    "Pendulum-v1, truncated, normalised": lambda: (
        "MlpPolicy",
        VecNormalize(make_vec_env("Pendulum-v1", 4, seed=0)),
        dict(normalize_advantage=True, gae_lambda=0.9),
    ),
    "gSDE": lambda: ("MlpPolicy", make_vec_env("Pendulum-v1", 4, seed=0), dict(use_sde=True, sde_sample_freq=3)),
    "squashed gSDE": lambda: ("MlpPolicy", envs(), dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "MultiDiscrete": lambda: (
        "MlpPolicy",
        envs(action_space=spaces.MultiDiscrete([2, 3])),
        dict(ent_coef=0.5, vf_coef=0.1, max_grad_norm=0.2),
    ),
    "MultiBinary": lambda: ("MlpPolicy", envs(action_space=spaces.MultiBinary(3)), dict(use_rms_prop=False)),
    "Dict": lambda: ("MultiInputPolicy", envs(DICT, BOX), {}),
    "truncation and termination": lambda: ("MlpPolicy", vectorised(Scripted([2, 3, 4], [True, False, True])), {}),
}


class Actions(BaseCallback):
    def __init__(self):
        super().__init__()
        self.actions = []

    def _on_step(self):
        self.actions.append(self.locals["actions"].copy())
        return True


OWN = {
    "A2C": (sb3.A2C, sb3_pgx.A2C, dict(n_steps=7)),
    "PPO": (sb3.PPO, sb3_pgx.PPO, dict(n_steps=32, batch_size=24, n_epochs=3)),
    "PPO, all options": (
        sb3.PPO,
        sb3_pgx.PPO,
        dict(n_steps=32, batch_size=32, n_epochs=4, clip_range_vf=0.1, target_kl=0.002, learning_rate=1e-3),
    ),
}


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("algorithm", OWN)
def test_the_same_seed_gives_sb3s_training(algorithm, case):
    *classes, own = OWN[algorithm]
    results = []
    for model_class in classes:
        policy, env, kwargs = CASES[case]()
        if algorithm != "A2C":
            kwargs = {k: v for k, v in kwargs.items() if k != "use_rms_prop"}
        callback = Actions()
        model = model_class(policy, env, seed=3, device=DEVICE, **own, **kwargs).learn(280, callback=callback)
        parameters = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        drawn = (np.random.rand(), th.rand(1).item(), model._n_updates)
        results.append((np.stack(callback.actions), parameters, *drawn))
    theirs, ours = results
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    th.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    assert ours[2:] == theirs[2:], "random numbers were drawn differently"


@pytest.mark.parametrize("algorithm", OWN)
def test_the_log_is_sb3s_one_dump_later_for_the_last_update(algorithm):
    *classes, own = OWN[algorithm]
    logs = []
    for model_class in classes:
        dumps = []
        logger = configure(None, [""])
        original = logger.dump
        logger.dump = lambda step=0, log=logger, d=dumps, o=original: d.append(dict(log.name_to_value)) or o(step)
        model = model_class("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), seed=0, device=DEVICE, **own)
        model.set_logger(logger)
        model.learn(400, log_interval=1)
        logs.append(dumps)
    theirs, ours = logs
    assert len(ours) == len(theirs) + 1
    for mine, expected in zip(ours, theirs, strict=False):
        assert expected.keys() <= mine.keys()
        for key in expected.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_allclose(mine[key], expected[key], rtol=1e-3, atol=1e-4, err_msg=key)
