"""Callbacks and logs go on where they were when the checkpoint was written."""

import csv
import json
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from support.interrupted import Interrupt, Interruption, uninterrupted_and_resumed
from support.models import assert_same, parameters
from support.small_environments import DEVICE

from sb3_pgx import PPO
from sb3_pgx.checkpoints import CheckpointCallback
from sb3_pgx.diagnostics import DiagnosticsCallback


def poles(n=2, seed=3):
    return make_vec_env("CartPole-v1", n, seed=seed)


def ppo(env, **kwargs):
    return PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=2, seed=1, device=DEVICE, **kwargs)


def test_evaluation_and_early_stopping_continue_exactly(tmp_path):
    """The run ends early, because the evaluations do not improve."""
    kept = {}

    def callbacks(folder):
        stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=3)
        arguments = dict(eval_freq=20, n_eval_episodes=2, log_path=str(folder), verbose=0)
        kept[folder.name] = EvalCallback(poles(1, seed=9), callback_after_eval=stop, **arguments)
        return [kept[folder.name]]

    whole, resumed = uninterrupted_and_resumed(ppo, poles, 3000, tmp_path, at=110, save_freq=40, callbacks=callbacks)
    assert whole.num_timesteps == resumed.num_timesteps < 3000
    assert_same(parameters(whole), parameters(resumed))
    one, other = kept["whole"], kept["parts"]
    assert (one.best_mean_reward, one.n_calls) == (other.best_mean_reward, other.n_calls)
    results = [np.load(tmp_path / name / "evaluations.npz") for name in ("whole", "parts")]
    np.testing.assert_equal(*({name: each[name] for name in each.files} for each in results))


class Curriculum(BaseCallback):
    """Changes an object that it shares with the environments, and keeps parts of the model."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.unpicklable = levels, (x for x in ())

    def _on_training_start(self):
        self.watched = [self.model.policy, self.model.policy.action_net.weight, self.model.policy.optimizer]

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.levels.append(len(self.levels))


class Levels(gym.Wrapper):
    def __init__(self, env, levels):
        super().__init__(env)
        self.levels = levels

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, reward + len(self.levels), *rest


def test_what_callbacks_share_with_environments_and_model_is_shared_afterwards(tmp_path):
    callbacks = []

    def make(levels):
        return DummyVecEnv([lambda: Monitor(Levels(gym.make("CartPole-v1"), levels))])

    def learn(model, levels, *more):
        callbacks.append(Curriculum(levels))
        return model.learn(320, callback=[callbacks[-1], CheckpointCallback(60, str(tmp_path)), *more])

    levels = []
    with pytest.raises(Interruption):
        learn(ppo(make(levels)), levels, Interrupt(lambda calls: calls == 200))
    levels = []
    env = make(levels)
    resumed = PPO.resume(tmp_path, env, device=DEVICE)
    with pytest.warns(UserWarning, match=r"Resuming: not continued.*callback.callbacks\[0\] \(unpicklable\)"):
        learn(resumed, levels, Interrupt(lambda calls: False))
    assert callbacks[-1].levels == list(range(10))
    assert callbacks[-1].levels is env.envs[0].get_wrapper_attr("levels")
    policy = resumed.policy
    assert all(map(lambda a, b: a is b, callbacks[-1].watched, [policy, policy.action_net.weight, policy.optimizer]))


# ------------------------------------------------------------------------------------------------------- logs

TIMES = ("time/fps", "time/time_elapsed", "diagnostics/time")


def rows(path):
    with path.open() as file:
        lines = [line for line in file if not line.startswith("#")]
    return [{name: value for name, value in row.items() if not name.startswith(TIMES)} for row in csv.DictReader(lines)]


def json_rows(path):
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(TIMES)} for line in path.read_text().splitlines()]


@pytest.mark.parametrize("sets_logger_again", mostly_slow([False, True], [True]))
def test_text_logs_go_on_in_the_same_files(sets_logger_again, tmp_path):
    """The rows that were written between the checkpoint and the interruption are not there twice."""

    def make_env(folder):
        return lambda: DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"), str(folder / "0"))])

    def with_logger(model, folder):
        model.set_logger(configure(str(folder), ["csv", "json", "log"]))
        return model

    def learn(model, folder, at):
        callbacks = [CheckpointCallback(90, str(folder)), DiagnosticsCallback(), Interrupt(lambda calls: calls == at)]
        return model.learn(640, callback=callbacks)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    learn(with_logger(ppo(make_env(whole)()), whole), whole, -1)
    with pytest.raises(Interruption):
        learn(with_logger(ppo(make_env(parts)()), parts), parts, 350)
    before = len(rows(parts / "progress.csv"))
    resumed = PPO.resume(parts, make_env(parts)(), device=DEVICE)
    if sets_logger_again:
        with_logger(resumed, parts)
    learn(resumed, parts, -1)
    assert 5 < before < len(rows(whole / "progress.csv"))
    assert rows(parts / "progress.csv") == rows(whole / "progress.csv")
    assert json_rows(parts / "progress.json") == json_rows(whole / "progress.json")
    episodes = [[(row["r"], row["l"]) for row in rows(folder / "0.monitor.csv")] for folder in (parts, whole)]
    assert episodes[0] == episodes[1] and len(episodes[0]) > 5
    assert (parts / "log.txt").read_text().count("total_timesteps") == (whole / "log.txt").read_text().count("total_timesteps")


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"] if not tag.startswith(TIMES)
    }


def test_tensorboard_goes_on_in_the_same_folder(tmp_path):
    if find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")

    def model(env, folder):
        return ppo(env, tensorboard_log=str(tmp_path / folder))

    def learn(model, folder, at):
        given = [CheckpointCallback(90, str(tmp_path / folder)), Interrupt(lambda calls: calls == at)]
        return model.learn(640, callback=given)

    learn(model(poles(1), "whole"), "whole", -1)
    with pytest.raises(Interruption):
        learn(model(poles(1), "parts"), "parts", 350)
    model(poles(1), "parts").learn(32)  # another run has begun meanwhile
    resumed = learn(PPO.resume(tmp_path / "parts", poles(1), device=DEVICE), "parts", -1)
    assert scalars(tmp_path / "parts" / "PPO_1") == scalars(tmp_path / "whole" / "PPO_1")
    other = scalars(tmp_path / "parts" / "PPO_2")
    assert other and all(len(points) == 1 for points in other.values())
    resumed.learn(32)
    assert (tmp_path / "parts" / "PPO_3").is_dir()


# ------------------------------------------------------------------------------------------- what cannot be continued


class Opaque(gym.vector.VectorEnv):
    """CartPole as arrays, with an attribute that cannot be pickled."""

    def __new__(cls, n):
        env = gym.make_vec("CartPole-v1", n, "vector_entry_point")
        env.generator = (x for x in ())
        return env


def test_episodes_restart_where_the_state_cannot_be_saved_and_the_log_says_so(tmp_path):
    model = ppo(Opaque(2))
    with pytest.raises(Interruption):
        model.learn(640, callback=[CheckpointCallback(40, str(tmp_path)), Interrupt(lambda calls: calls == 100)])
    resumed = PPO.resume(tmp_path, Opaque(2), device=DEVICE)
    starts, before = [], resumed.num_timesteps

    def keep(locals_, _):
        starts.append((resumed.num_timesteps, resumed._last_episode_starts.tolist()))
        return True

    with pytest.warns(UserWarning, match="Resuming: episodes restart, because the state of env.*CartPoleVectorEnv"):
        resumed.learn(640, callback=keep)
    assert starts[0] == (before + 2, [True, True]) and resumed.num_timesteps >= 640


def test_envpool_restarts_its_episodes(tmp_path):
    envpool = pytest.importorskip("envpool", reason="envpool is not installed")

    def make():
        return envpool.make("CartPole-v1", env_type="gymnasium", num_envs=2, seed=3)

    ppo(make()).learn(256, callback=CheckpointCallback(40, str(tmp_path)))
    with pytest.warns(UserWarning, match="Resuming: episodes restart, because the state of env.*EnvPool"):
        assert PPO.resume(tmp_path, make(), device=DEVICE).learn(320).num_timesteps == 320
