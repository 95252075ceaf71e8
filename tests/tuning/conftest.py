"""Studies without training: results of runs are made up, and each execution writes a line to a file."""

import multiprocessing as mp
import time
from dataclasses import replace

import optuna
import pytest
from support.made_up_runs import POINTS, TIMESTEPS, Stub, ThreadWorker

from sb3_pgx.tuning.study import open_study
from sb3_pgx.tuning.study_report import summarize_study
from sb3_pgx.tuning.tuner import train_trials
from sb3_pgx.tuning.tuning_plan import plan_tuning


@pytest.fixture
def stub(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield Stub(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.fixture
def plan(tmp_path):
    """A function that makes a plan with small numbers."""

    def make(algorithm="a2c", env="CartPole-v1", **changes):
        small = {"trials": 3, "timesteps": TIMESTEPS, "seeds": 2, "workers": 1, "pruner": "none", "evaluations": POINTS}
        seconds = {name: changes.pop(name) for name in list(changes) if "seconds" in name}
        plan = plan_tuning(algorithm, env, **{**small, "sampler_seed": 0, "output": tmp_path / "out", **changes})
        return replace(plan, **seconds)

    return make


@pytest.fixture
def search(stub):
    """A function that runs a search without a report, in threads and with made-up results; summary and study."""

    def run(plan, study=None, make_worker=lambda: ThreadWorker(stub.execute)):
        study = study or open_study(plan)
        train_trials(replace(plan, progress=False), study, make_worker)
        return summarize_study(study, plan), study

    return run


@pytest.fixture
def killed_at(search, stub):
    """A function that runs a search in another process and kills it (SIGKILL) during this seed of this trial."""

    def run(plan, trial, seed):
        stub.hang_at = (trial, seed)
        process = mp.get_context("fork").Process(target=search, args=(plan,))
        process.start()
        deadline = time.monotonic() + 20
        while not (stub.folder / "hanging").exists():
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()
        stub.hang_at = None

    return run
