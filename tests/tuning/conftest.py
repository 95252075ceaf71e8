"""Studies without training: results of runs are made up, and each execution writes a line to a file."""

import multiprocessing as mp
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Pipe
from pathlib import Path
from threading import Thread

import optuna
import pytest

from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.tuning import trial_runs, tuner, worker_process
from sb3_pgx.tuning.study import open_study
from sb3_pgx.tuning.tuning_plan import plan_tuning

TIMESTEPS, POINTS = 400, 4  # a point each 100 steps: CartPole-v1's entry has 8 environments, whose steps 100 is no multiple of


class ThreadWorker(worker_process.Worker):
    """A worker that is a thread of this process."""

    def submit(self, task):
        if self._process is None:
            self._pipe, theirs = Pipe()
            self._process = Thread(target=worker_process._serve, args=(theirs,), daemon=True)
            self._process.start()
        self._pipe.send(task)

    def close(self):
        if self._process is not None:
            self._pipe.close()  # the thread ends when it says or asks something
            self._process = None


@dataclass
class Stub:
    """Replaces training and evaluation. ``returns`` maps the trial's number, or the number and the seed, to the return."""

    folder: Path
    returns: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    hang_at: tuple | None = None
    seconds: float = 0.0

    def execute(self, spec, report, at_point=None):
        trial = int(spec.config.source.split()[1])
        if (trial, spec.seed) == self.hang_at:
            (self.folder / "hanging").touch()
            time.sleep(60)
        with (self.folder / "executions").open("a") as file:
            rate = spec.config.hyperparameters.get("learning_rate")
            file.write(f"{trial} {spec.seed} {rate}\n")
        time.sleep(self.seconds)
        value = self.returns.get((trial, spec.seed), self.returns.get(trial, float(trial)))
        common = {"label": spec.label, "env_id": spec.env_id, "seed": spec.seed, "timesteps": spec.timesteps, "source": ""}
        if error := self.errors.get(trial):
            return RunResult(**common, error=error, traceback="Traceback …")
        steps = [TIMESTEPS // POINTS * k for k in range(1, spec.curve_points + 1)]
        for step in steps:
            at_point(step, value)
        curve = {"curve_steps": steps, "curve_returns": [value] * len(steps)}
        return RunResult(**common, **curve, steps=spec.timesteps, returns=[value - 1, value + 1], training_seconds=1.0)

    def executions(self):
        """Return trial and seed of each completed execution."""
        return [tuple(map(int, line.split()[:2])) for line in self._lines()]

    def rates(self):
        return {int(line.split()[0]): line.split()[2] for line in self._lines()}

    def _lines(self):
        path = self.folder / "executions"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def in_threads(monkeypatch):
    """A function that makes workers threads of this process."""

    def patch():
        monkeypatch.setattr(tuner, "Worker", ThreadWorker)
        monkeypatch.setattr(worker_process, "become_worker", lambda: None)

    return patch


@pytest.fixture
def stub(tmp_path, monkeypatch, in_threads):
    stub = Stub(tmp_path)
    in_threads()
    monkeypatch.setattr(trial_runs, "execute", stub.execute)
    monkeypatch.setattr(tuner, "write_study_report", lambda *_: [])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield stub
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.fixture
def plan(tmp_path):
    """A function that makes a plan with small numbers."""

    def make(algorithm="a2c", env="CartPole-v1", **changes):
        small = {"trials": 3, "timesteps": TIMESTEPS, "seeds": 2, "workers": 1, "pruner": "none", "evaluations": POINTS}
        return plan_tuning(algorithm, env, **{**small, "sampler_seed": 0, "output": tmp_path / "out", **changes})

    return make


@pytest.fixture
def search():
    """A function that runs a search and returns the summary and the study."""

    def run(plan):
        study = open_study(plan)
        return tuner.run_tuning(plan, study, progress=False), study

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
