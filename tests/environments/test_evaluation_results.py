"""The file with the results of a run's evaluations."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from support.full_disk import full_disk

from sb3_pgx import A2C
from sb3_pgx.environments import EvalCallback


def model():
    return A2C("MlpPolicy", make_vec_env("CartPole-v1", 1, seed=0), n_steps=8, seed=0, device="cpu")


def evaluating(folder, **others):
    env = make_vec_env("CartPole-v1", 1, seed=1)
    return EvalCallback(env, n_eval_episodes=1, eval_freq=16, log_path=str(folder), verbose=0, **others)


def test_a_full_disk_keeps_the_results_of_earlier_evaluations(tmp_path):
    learner, callback = model(), evaluating(tmp_path)
    learner.learn(32, callback)
    before = (tmp_path / "evaluations.npz").read_bytes()
    with (
        pytest.raises(OSError, match=r"evaluations\.npz cannot be written: .*; the existing file is unchanged"),
        full_disk(300),
    ):
        learner.learn(32, callback, reset_num_timesteps=False)
    assert (tmp_path / "evaluations.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    learner.learn(16, callback, reset_num_timesteps=False)
    assert len(np.load(tmp_path / "evaluations.npz")["timesteps"]) > 2


def test_a_callback_after_an_evaluation_finds_its_results_in_the_file(tmp_path):
    class Reads(BaseCallback):
        found = ()

        def _on_step(self):
            self.found = np.load(f"{self.parent.log_path}.npz")["timesteps"]
            return True

    reads = Reads()
    model().learn(32, evaluating(tmp_path, callback_after_eval=reads))
    assert list(reads.found) == [16, 32]


def test_a_callback_that_says_that_it_reads_no_results_leaves_them_protected(tmp_path):
    class Saves(BaseCallback):
        reads_results = False

        def _on_step(self):
            return True

    learner, callback = model(), evaluating(tmp_path, callback_on_new_best=Saves())
    learner.learn(32, callback)
    before = (tmp_path / "evaluations.npz").read_bytes()
    with pytest.raises(OSError, match="the existing file is unchanged"), full_disk(300):
        learner.learn(32, callback, reset_num_timesteps=False)
    assert (tmp_path / "evaluations.npz").read_bytes() == before
