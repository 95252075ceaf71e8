"""Runs that take turns do not affect each other."""

import random

import numpy as np
import pytest
import torch as th

from sb3_pgx.algorithms.a2c import A2C
from sb3_pgx.experiments.runs import Interrupted, RunSpec, execute
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.tuning.thread_coroutine import ThreadCoroutine
from sb3_pgx.tuning.trial_runs import SeedFailed, Task, run_task

SPECS = tuple(
    RunSpec("a2c", A2C, "CartPole-v1", seed, 200, RunConfig("", n_envs=2), curve_points=2, curve_episodes=1, eval_episodes=2)
    for seed in (100, 101)
)


class Listener:
    def __init__(self, stop_at=None):
        self.points, self.finished, self.stop_at = [], {}, stop_at

    def progress(self, progress):
        return True

    def point(self, steps, mean_return):
        self.points.append((steps, mean_return))
        return steps != self.stop_at

    def seed(self, finished):
        self.finished[finished.seed] = finished
        return True


def test_seeds_in_lock_step_give_what_each_gives_alone_and_report_their_mean():
    listener = Listener()
    run_task(Task(SPECS, {}, in_lock_step=True), listener)
    alone = [execute(spec) for spec in SPECS]
    for result in alone:
        finished = listener.finished[result.seed]
        assert (finished.mean_return, finished.curve_returns) == (result.mean_return, result.curve_returns)
    assert alone[0].curve_returns != alone[1].curve_returns
    means = [sum(values) / 2 for values in zip(*(result.curve_returns for result in alone), strict=True)]
    assert listener.points == list(zip([100, 200], means, strict=True))


def test_who_is_told_to_stop_at_a_point_trains_no_further():
    listener = Listener(stop_at=100)
    run_task(Task(SPECS, {}, in_lock_step=True), listener)
    assert [steps for steps, _ in listener.points] == [100] and not listener.finished


@pytest.mark.parametrize("in_lock_step", [True, False])
def test_a_seed_that_fails_ends_the_trial_with_its_sentence(in_lock_step):
    config = RunConfig("", n_envs=2, hyperparameters={"gamma": 2.0})
    specs = tuple(RunSpec("a2c", A2C, "CartPole-v1", seed, 200, config) for seed in (100, 101))
    with pytest.raises(SeedFailed, match="seed 100: ValueError: gamma") as failure:
        run_task(Task(specs, {}, in_lock_step), Listener())
    assert "Traceback" in failure.value.details


def draws(pause):
    for _ in range(3):
        pause((random.random(), np.random.random(), th.rand(1).item()))
    return "done"


def test_random_numbers_of_a_strand_do_not_depend_on_others_and_leave_theirs_alone():
    def start():
        random.seed(0), np.random.seed(0), th.manual_seed(0)
        return ThreadCoroutine(draws)

    alone, expected = start(), []
    while alone.resume():
        expected.append(alone.value)
    one, other = start(), start()
    random.seed(7), np.random.seed(7), th.manual_seed(7)
    seen = []
    while one.resume():
        seen.append(one.value)
        other.resume()
        assert (random.random(), np.random.random(), th.rand(1).item()) not in expected
    assert seen == expected and len(set(seen)) == 3 and one.result == "done" and other.value == expected[-1]


def test_an_error_reaches_who_resumes_and_a_stop_reaches_the_function():
    def fail(pause):
        raise KeyError("x")

    with pytest.raises(KeyError):
        ThreadCoroutine(fail).resume()

    ends = []

    def clean_up(pause):
        try:
            pause(1)
        except Interrupted:
            ends.append("interrupted")
            raise

    coroutine = ThreadCoroutine(clean_up)
    assert coroutine.resume() and coroutine.value == 1
    coroutine.stop()
    coroutine.stop()
    assert ends == ["interrupted"] and not coroutine.finished
