"""The command with real worker processes, killed and started again."""

import ctypes
import multiprocessing as mp
import os
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest

from sb3_pgx.cli import main
from sb3_pgx.experiments.runs import FINAL_SEEDS, SEED_STRIDE
from sb3_pgx.tuning.worker_process import TaskEnded, Worker, receive_messages

ENV = "test_processes:OneStep-v0"
LOG, FAULTS = "ONE_STEP_LOG", "ONE_STEP_FAULTS"


class OneStep(gym.Env):
    """Episodes of one step with return 1. Writes a line per seed, and crashes or hangs if a file tells it to."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None and LOG in os.environ:
            with Path(os.environ[LOG]).open("a") as file:
                file.write(f"{seed}\n")
        if seed == 100 * SEED_STRIDE and FAULTS in os.environ:  # the run of seed 100 begins
            self._begin_with(Path(os.environ[FAULTS]))
        return np.zeros(1, np.float32), {}

    def _begin_with(self, faults):
        fault, *others = faults.read_text().split()
        faults.write_text(" ".join(others))
        if fault == "crash":
            ctypes.string_at(0)
        elif fault == "hang":
            time.sleep(1e6)

    def step(self, action):
        time.sleep(float(os.environ.get("ONE_STEP_SECONDS", 0)))
        return np.zeros(1, np.float32), 1.0, True, False, {}


if "OneStep-v0" not in gym.registry:  # pytest imports this file under another name than Gymnasium does
    gym.register("OneStep-v0", entry_point=OneStep)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Return the seeds whose final policy was evaluated, one entry per evaluation."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def read():
        lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
        # The first evaluation environment has the run's seed.
        return [n for n in ((int(line) - FINAL_SEEDS) / SEED_STRIDE for line in lines) if n in (100, 101)]

    return read


def test_a_command_that_is_killed_goes_on_where_it_was(tmp_path, evaluated, monkeypatch, capsys):
    command = ["tune", "--algo", "a2c", "--env", ENV, "--trials", "2", "--seeds", "2", "--timesteps", "400", "--workers", "1"]
    command += ["--pruner", "none", "--eval-episodes", "2", "--output", str(tmp_path / "out")]
    monkeypatch.setenv("ONE_STEP_SECONDS", "0.005")
    process = mp.get_context("fork").Process(target=main, args=(command,))
    process.start()
    deadline, journal = time.monotonic() + 120, tmp_path / "out" / "journal.log"
    while not (journal.exists() and '"seed 100"' in journal.read_text()):  # until the first seed is stored
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # into the second one
    process.kill()
    process.join()
    assert evaluated() == [100]
    monkeypatch.setenv("ONE_STEP_SECONDS", "0")
    assert main(command) == 0
    assert evaluated() == [100, 101, 100, 101]
    printed = capsys.readouterr().out
    assert "trial 0 was interrupted and starts again with the same parameters" in printed
    assert "2 trials: 2 finished." in printed and "The starting configuration: 1.0." in printed
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "best" / "a2c.yml").exists()
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.slow
def test_a_crash_and_a_hanging_environment_cost_only_their_own_trials(tmp_path, evaluated, monkeypatch, capsys):
    (tmp_path / "faults").write_text("crash hang none")
    monkeypatch.setenv(FAULTS, str(tmp_path / "faults"))
    command = ["tune", "--algo", "a2c", "--env", ENV, "--trials", "3", "--seeds", "1", "--timesteps", "400", "--workers", "1"]
    command += ["--eval-episodes", "2", "--output", str(tmp_path / "out"), "--timeout-per-trial", "30"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "trial 0: failed: its process was ended by SIGSEGV" in printed
    assert "trial 1: failed: the trial was ended because it took longer than 30 s" in printed
    assert "3 trials: 1 finished, 2 failed." in printed and (tmp_path / "out" / "best" / "a2c.yml").exists()
    optuna.logging.set_verbosity(optuna.logging.INFO)


def test_the_end_of_a_process_is_a_failure_with_its_reason_and_one_that_has_nothing_to_do_leaves_by_itself():
    """A worker that exits on its own releases system resources such as semaphores."""
    before = {*mp.active_children()}
    worker = Worker()
    try:
        worker.submit(Dies())
        (answer,) = [message for _, message in receive_messages([worker], seconds=120)]
        assert (
            isinstance(answer, TaskEnded)
            and "its process has ended with exit code 7: something in it called exit" in answer.reason
        )
        assert {*mp.active_children()} <= before
        worker.submit(Hangs())
        (answer,) = [message for _, message in receive_messages([worker], seconds=0.2)]
        assert answer.reason == "the trial was ended because it took longer than 0 s"
        assert {*mp.active_children()} <= before
        worker.submit(Fails())  # to a new process
        (answer,) = [message for _, message in receive_messages([worker], seconds=120)]
        assert isinstance(answer, TaskEnded) and "AttributeError" in answer.reason
        (process,) = {*mp.active_children()} - before
        process.terminate = process.kill = lambda: pytest.fail("it was ended from outside")
    finally:
        worker.close()
    assert {*mp.active_children()} <= before


class Fails:
    """A task without runs."""

    specs, timeout = (), None


class Hangs:
    """A task that the process that unpickles it never begins."""

    specs, timeout = (), 0.1  # seconds, in which no process starts

    def __reduce__(self):
        return time.sleep, (1e6,)


class Dies:
    """A task that kills the process that unpickles it."""

    specs, timeout = (), None

    def __reduce__(self):
        return os._exit, (7,)
