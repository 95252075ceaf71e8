"""What every algorithm of the registry logs, and when."""

import csv

import numpy as np
import pytest
from selection import mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger, configure
from support.capabilities import PPOS
from support.models import make
from support.variants import each_variant

from sb3_pgx.registry import ALGORITHMS


def logged(model, timesteps, **kwargs):
    """Every log dump of a run, in order."""
    dumps = []
    logger = configure(None, [""])
    original = logger.dump
    logger.dump = lambda step=0: dumps.append(dict(logger.name_to_value)) or original(step)  # type: ignore[method-assign]
    model.set_logger(logger)
    model.learn(timesteps, **kwargs)
    return dumps


def test_log_keys_are_sb3s_finite_and_the_last_update_is_among_them(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0))
    updates = []
    original = model.update
    model.update = lambda rollout: updates.append(original(rollout)) or updates[-1]
    dumps = logged(model, 300, log_interval=1)
    assert len(dumps) == len(updates)  # SB3 logs before it updates: the last update would be lost
    last = dumps[-1]
    assert {"time/fps", "time/total_timesteps", "rollout/ep_rew_mean", "rollout/ep_len_mean"} <= last.keys()
    objectives = {**dict.fromkeys(PPOS, "policy_gradient_loss"), **dict.fromkeys(["npg", "trpo"], "policy_objective")}
    policy_loss = objectives.get(name, "policy_loss")  # SB3's and sb3-contrib's names
    others = ("value_loss", "kl_divergence_loss") if name in ("npg", "trpo") else ("entropy_loss",)
    assert {f"train/{key}" for key in ("learning_rate", "n_updates", policy_loss, *others)} <= last.keys()
    assert last[f"train/{policy_loss}"] == pytest.approx(float(updates[-1][policy_loss]))
    assert model.logger.name_to_value[f"train/{policy_loss}"] == last[f"train/{policy_loss}"]  # as after SB3's learn
    assert last["train/n_updates"] == model._n_updates
    assert all(np.isfinite(v) for v in last.values())
    assert "train/std" in logged(make(name), 48, log_interval=1)[-1]


def test_the_last_update_is_logged_whatever_the_log_interval(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0))
    dumps = logged(model, 120, log_interval=7)
    assert dumps[-1]["train/n_updates"] == model._n_updates


@pytest.mark.parametrize("log_interval", mostly_slow([1, 2, 3], [2]))
@each_variant(also_quick=False)
def test_no_step_is_logged_twice(variant, log_interval, tmp_path):
    """Neither if the run continues, nor if it ends by itself or is stopped by a callback."""
    model = variant.make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    for _ in range(3):
        model.learn(48, log_interval=log_interval, reset_num_timesteps=False)
    model.learn(1000, log_interval=log_interval, reset_num_timesteps=False, callback=lambda a, b: model.num_timesteps < 200)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == model.num_timesteps
    assert int(rows[-1]["train/n_updates"]) == model._n_updates


def test_nothing_is_logged_without_a_log_interval(name):
    assert logged(make(name), 48, log_interval=None) == []


def test_tensorboard_runs_are_named_after_the_class(name, tmp_path):
    make(name, tensorboard_log=str(tmp_path)).learn(12)
    assert [p.name for p in tmp_path.iterdir()] == [f"{ALGORITHMS[name].__name__}_1"]


def test_a_custom_logger_is_kept(name):
    model, logger = make(name), Logger(None, [])
    model.set_logger(logger)
    assert model.learn(12).logger is logger


def test_the_statistics_window_is_respected(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0), stats_window_size=3).learn(200)
    assert model.ep_info_buffer.maxlen == 3 == len(model.ep_info_buffer)
