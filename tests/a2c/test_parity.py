"""A2C against SB3's on the same seed: actions, parameters, random numbers and log."""

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
    "MultiDiscrete": lambda: ("MlpPolicy", envs(action_space=spaces.MultiDiscrete([2, 3])), dict(ent_coef=0.01)),
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


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_gives_sb3s_training(case):
    results = []
    for model_class in (sb3.A2C, sb3_pgx.A2C):
        policy, env, kwargs = CASES[case]()
        callback = Actions()
        model = model_class(policy, env, n_steps=7, seed=3, device=DEVICE, **kwargs).learn(280, callback=callback)
        parameters = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        results.append((np.stack(callback.actions), parameters, np.random.rand(), th.rand(1).item()))
    theirs, ours = results
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    th.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    assert ours[2:] == theirs[2:], "random numbers were drawn differently"


def test_the_log_is_sb3s_one_dump_later_for_the_last_update():
    logs = []
    for model_class in (sb3.A2C, sb3_pgx.A2C):
        dumps = []
        logger = configure(None, [""])
        original = logger.dump
        logger.dump = lambda step=0, log=logger, d=dumps, o=original: d.append(dict(log.name_to_value)) or o(step)
        model = model_class("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), seed=0, device=DEVICE)
        model.set_logger(logger)
        model.learn(200, log_interval=1)
        logs.append(dumps)
    theirs, ours = logs
    assert len(ours) == len(theirs) + 1
    for mine, expected in zip(ours, theirs, strict=False):
        assert expected.keys() <= mine.keys()
        for key in expected.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_allclose(mine[key], expected[key], rtol=1e-3, atol=1e-4, err_msg=key)
