"""Runs: budgets, clocks and evaluations are honest, and results survive the failure of other runs."""

import json
import multiprocessing as mp
import time
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import A2C, PPO
from support.broken_algorithms import Crashes, Hangs, KillsItsProcess

from sb3_pgx.experiments import pool
from sb3_pgx.experiments.child_process import become_worker
from sb3_pgx.experiments.runs import FINAL_SEEDS, SEED_STRIDE, Interrupted, RunProgress, RunSpec, execute
from sb3_pgx.settings.configs import RunConfig


def spec(algorithm=A2C, seed: int = 0, timesteps: int = 200, n_envs: int = 4, normalize=None, curve_points: int = 0, **kwargs):
    config = RunConfig(source="test", n_envs=n_envs, normalize=normalize, hyperparameters=kwargs)
    return RunSpec("sb3:a2c", algorithm, "CartPole-v1", seed, timesteps, config, curve_points, eval_episodes=5)


class CountingPPO(PPO):
    """Counts the rollouts that it learned from."""

    learned = 0

    def train(self) -> None:
        CountingPPO.learned += 1


class AlwaysLeft(A2C):
    """Its policy always pushes right during training and always left afterwards."""

    def learn(self, *args, **kwargs):
        self.push(1)
        result = super().learn(*args, **kwargs)
        self.push(0)
        return result

    def train(self) -> None:
        pass

    def push(self, action: int) -> None:
        layer = self.policy.action_net
        assert isinstance(layer, th.nn.Linear)
        with th.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(th.nn.functional.one_hot(th.tensor(action), 2) * 1e3)


class ShiftsStatistics(A2C):
    """Sees observations around 1000 in training, and records the observations that its policy gets afterwards."""

    shown: np.ndarray

    def learn(self, *args, **kwargs):
        super().learn(*args, **kwargs)
        statistics: Any = vars(self.get_vec_normalize_env())["obs_rms"]
        statistics.mean[:], statistics.var[:] = 1000.0, 1.0
        return self

    def predict(self, observation, *args, **kwargs):
        ShiftsStatistics.shown = observation
        return super().predict(observation, *args, **kwargs)


@pytest.mark.parametrize(
    ("timesteps", "steps", "learned"),
    [
        (512, 512, 2),  # two rollouts of 4 * 64 end at the budget: both are learned from
        (600, 604, 2),  # the third is cut short at the first step beyond it
        (255, None, 0),  # the rollout ends one step beyond it: not learned from
        (100, None, 0),  # SB3 alone would go on to 256
    ],
)
def test_no_run_exceeds_its_budget_by_more_than_one_step_of_each_environment_and_one_that_learns_nothing_fails(
    timesteps, steps, learned
):
    CountingPPO.learned = 0
    result = execute(spec(CountingPPO, timesteps=timesteps, n_steps=64))
    assert CountingPPO.learned == learned
    if learned:
        assert (result.error, result.steps) == (None, steps)
    else:
        assert f"the budget of {timesteps} steps ended before the first rollout was complete" in str(result.error)


def always_left(seed: int) -> float:
    env = gym.make("CartPole-v1")
    env.reset(seed=seed)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(0)
        steps, over = steps + 1, terminated or truncated
    return float(steps)


def test_final_evaluation_plays_the_final_policy_in_episodes_of_its_own():
    result = execute(spec(AlwaysLeft, seed=3, curve_points=2))
    expected = [always_left(FINAL_SEEDS + 3 * SEED_STRIDE + i) for i in range(5)]
    assert sorted(result.returns) == sorted(expected)
    assert result.mean_return == pytest.approx(sum(expected) / 5)


def test_final_evaluation_sees_the_normalisation_statistics_of_training():
    result = execute(spec(ShiftsStatistics, normalize={}))
    assert result.error is None
    # (about 0 - 1000) / 1, clipped to -10 as VecNormalize does
    np.testing.assert_array_equal(ShiftsStatistics.shown, np.full((5, 4), -10.0))


def test_learning_curve_is_spread_evenly_and_evaluates_the_policy_of_its_time():
    result = execute(spec(AlwaysLeft, timesteps=400, curve_points=5))
    assert result.curve_steps == [80, 160, 240, 320, 400]
    assert np.all(np.diff([0.0, *result.curve_seconds]) > 0) and result.curve_seconds[-1] <= result.training_seconds
    assert all(8.0 <= value <= 11.0 for value in result.curve_returns)  # a pole that is pushed one way falls at once


def test_time_spent_in_evaluations_is_not_training_time(monkeypatch):
    def slow_evaluation(*args, **kwargs):
        time.sleep(0.2)
        return [1.0], [1]

    monkeypatch.setattr("stable_baselines3.common.callbacks.evaluate_policy", slow_evaluation)
    start = time.perf_counter()
    result = execute(spec(timesteps=100, curve_points=5))
    assert result.curve_returns == [1.0] * 5
    assert result.training_seconds < time.perf_counter() - start - 1.0
    assert result.curve_seconds[-1] <= result.training_seconds
    assert result.frames_per_second == pytest.approx(100 / result.training_seconds)


def test_same_seed_gives_the_same_run_whether_or_not_it_is_watched():
    plain, watched = execute(spec(seed=5)), execute(spec(seed=5, curve_points=4))
    assert plain.returns == watched.returns


def test_every_step_is_reported_once():
    reported: list[RunProgress] = []

    def report(progress: RunProgress) -> bool:
        reported.append(progress)
        return True

    result = execute(spec(timesteps=200, curve_points=2), report)
    assert sum(progress.steps for progress in reported) == result.steps == 200
    assert sum(progress.seconds for progress in reported) == pytest.approx(result.training_seconds, abs=0.1)
    assert reported[-1].last_return > 0


def test_a_run_that_is_told_to_stop_has_no_result():
    with pytest.raises(Interrupted):
        execute(spec(timesteps=10**9), lambda progress: False)


def test_a_run_that_raises_is_recorded_with_its_sentence():
    result = execute(spec(learning_rate=-1.0))
    assert result.error is not None and result.error.startswith("ValueError: Invalid learning rate")
    assert result.traceback is not None and "Traceback" in result.traceback
    assert result.returns == []


@pytest.mark.parametrize("reward", [float("nan"), -float("inf")])
def test_a_run_whose_final_returns_are_not_finite_failed(reward, monkeypatch):
    class FinallyNotFinite(CartPoleEnv):
        def reset(self, *, seed=None, options=None):
            self.reward = reward if seed is not None and seed >= FINAL_SEEDS else 1.0
            return super().reset(seed=seed, options=options)

        def step(self, action):
            observation, _, *others = super().step(action)
            return observation, self.reward, *others

    own = gym.envs.registration.EnvSpec("FinallyNotFinite-v0", FinallyNotFinite, max_episode_steps=20)
    monkeypatch.setitem(gym.registry, own.id, own)
    result = execute(replace(spec(), env_id=own.id))
    assert result.error is not None and "check the environment's reward function" in result.error


def test_runs_in_processes_leave_a_file_each_survive_a_failing_one_and_end_when_they_are_interrupted(tmp_path, monkeypatch):
    entry = "gymnasium.envs.classic_control:CartPoleEnv"
    here = gym.envs.registration.EnvSpec("OnlyHere-v0", entry, max_episode_steps=30)  # a new process has to be told of it
    monkeypatch.setitem(gym.registry, here.id, here)
    specs = [replace(spec(seed=1), env_id=here.id), spec(seed=2, learning_rate=-1.0), spec(seed=3, timesteps=10**9)]
    results = []

    def interrupt_the_endless_one(result):
        results.append(result)
        if len(results) == 2:
            raise KeyboardInterrupt

    paths = [tmp_path / "of" / f"{spec.seed}.json" for spec in specs]
    with pytest.raises(KeyboardInterrupt):
        pool.run_all(specs, paths, workers=1, progress=False, on_result=interrupt_the_endless_one)
    good, bad = results
    assert (good.seed, good.error, bad.seed) == (1, None, 2)
    assert sorted(path.name for path in (tmp_path / "of").iterdir()) == ["1.json", "2.json"]
    first, second = (json.loads(path.read_text()) for path in paths[:2])
    assert first["returns"] == good.returns == execute(specs[0]).returns
    assert first["mean_return"] == pytest.approx(np.mean(good.returns))
    assert set(good.versions) == {"sb3_pgx", "python", "torch", "stable_baselines3", "gymnasium"}
    assert second["error"] == bad.error and "Invalid learning rate" in str(bad.error)


def test_runs_whose_processes_end_fail_alone_and_say_where(tmp_path):
    """One crashes, one exits, and one is sound: it has the result that it has alone."""
    specs = [spec(Crashes, seed=1), spec(seed=2), spec(KillsItsProcess, seed=3)]
    paths = [tmp_path / f"{one.seed}.json" for one in specs]
    crashed, sound, exited = pool.run_all(specs, paths, workers=3, progress=False)
    assert sound.returns == execute(specs[1]).returns
    assert crashed.error == (
        "ProcessDied: its process was ended by SIGSEGV: compiled code in it crashed, perhaps that of the environment's "
        "simulator"
    )
    assert "string_at" in crashed.traceback
    assert exited.error.startswith("ProcessDied: its process has ended with exit code 9: something in it called exit")
    assert [json.loads(path.read_text())["error"] for path in paths] == [crashed.error, None, exited.error]


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_in_time():
    (hung,) = pool.run_all([spec(Hangs)], progress=False, timeout=2)
    assert hung.error == "TimeLimitExceeded: the run was ended because it took longer than 2 s"


def test_a_worker_ends_when_the_comparison_that_started_it_is_gone():
    """A killed parent cannot stop its workers, which would otherwise go on training."""
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()

    def work():
        become_worker()
        theirs.send("training")
        time.sleep(60)

    def start_a_worker():
        worker = context.Process(target=work)
        worker.start()
        worker.join()

    parent = context.Process(target=start_a_worker)
    parent.start()
    theirs.close()
    assert ours.recv() == "training"
    parent.kill()
    parent.join()
    assert ours.poll(20)
    with pytest.raises(EOFError):  # no process is left that could send anything
        ours.recv()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    pool.write_json(path, {"old": 1})
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("crash")))
    with pytest.raises(OSError, match="crash"):
        pool.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}


def test_runs_with_neighbouring_seeds_share_no_episode():
    class FirstStates(A2C):
        seen: ClassVar[list] = []

        def learn(self, *args, **kwargs):
            FirstStates.seen.append(self.env.reset())
            return super().learn(*args, **kwargs)

    FirstStates.seen.clear()
    for seed in (0, 1):
        assert execute(spec(FirstStates, seed=seed, n_envs=8)).error is None
    assert len(np.unique(np.concatenate(FirstStates.seen), axis=0)) == 16


def test_a_wrapper_that_ends_episodes_does_not_hang_the_evaluation():
    wrapped = RunConfig(source="", n_envs=2, wrappers=(("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 7}),))
    result = execute(RunSpec("a2c", A2C, "CartPole-v1", 0, 100, wrapped, curve_points=2))
    assert result.error is None and set(result.returns) == {7.0}
