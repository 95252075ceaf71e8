"""The processes of A3C's workers: they train together, and end together, whatever happens."""

import glob
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from support.a3c_environments import Seldom, crash, die, leave, nothing
from support.models import assert_same, parameters
from support.small_environments import DEVICE, vectorised

from sb3_pgx import A3C

ROOT = Path(__file__).parents[3]
ENDLESS, LONGEST = 10**9, 100.0  # steps, and seconds after which a test fails


class Watches(BaseCallback):
    """Keeps a reference to the shared memory, may wait for the second worker, and stops a run that takes too long."""

    def __init__(self, updates_to_wait_for=0, stop_at=None):
        super().__init__()
        self.updates_to_wait_for, self.stop_at, self.started = updates_to_wait_for, stop_at, time.monotonic()

    def _on_step(self):
        self.shared = self.model.worker.shared
        while self.shared.updates[1] < self.updates_to_wait_for and time.monotonic() - self.started < LONGEST:
            time.sleep(0.01)
        assert time.monotonic() - self.started < LONGEST
        return self.stop_at is None or self.n_calls < self.stop_at


def model(what=nothing, **kwargs):
    settings = dict(n_workers=2, policy_kwargs=dict(net_arch=[8]), seed=0, device=DEVICE, compile=False)
    return A3C("MlpPolicy", vectorised(Seldom(what), Seldom(what)), **{**settings, **kwargs})


def nothing_is_left(trained):
    """Return whether processes and shared memory are gone."""
    files = glob.glob(f"/dev/shm/torch_{os.getpid()}_*")
    return trained.worker is None and trained.others is None and not multiprocessing.active_children() and not files


def test_two_workers_train_one_model_which_is_saved_and_loaded(tmp_path):
    trained, watch = model(), Watches(updates_to_wait_for=5)
    start = parameters(trained)
    trained.learn(600, callback=watch, log_interval=1)
    steps, updates = watch.shared.steps.tolist(), watch.shared.updates.tolist()
    assert trained.num_timesteps == sum(steps) >= 600 and min(steps) > 0 and min(updates) > 0
    assert trained._n_updates == updates[0]
    assert th.equal(th.nn.utils.parameters_to_vector(trained.policy.parameters()).cpu(), watch.shared.parameters)
    assert not th.equal(start["action_net.weight"], trained.policy.action_net.weight)
    assert nothing_is_left(trained)
    trained.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=trained.env, device=DEVICE)
    assert_same(parameters(trained), parameters(loaded))
    assert loaded.n_workers == 2 and loaded.worker is None
    loaded.n_workers = 1
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == trained.num_timesteps + 20


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (die, r"was ended by SIGKILL \(it was killed"),
        pytest.param(leave, r"has ended with exit code 0 \(something in it", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_ends_too_early_ends_the_training_with_one_sentence(end, how):
    trained = model(end)
    sentence = rf"^worker 1 of A3C is gone after \d+ steps of all workers: its process {how}.*by then\.$"
    with pytest.raises(RuntimeError, match=sentence):
        trained.learn(ENDLESS, callback=Watches())
    assert nothing_is_left(trained) and trained._n_updates > 0
    assert all(th.isfinite(p).all() for p in trained.policy.parameters())


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised_with_its_traceback():
    trained = model(crash)
    with pytest.raises(RuntimeError, match=r"^worker 1 of A3C failed after .*: KeyError: 'the simulator crashed'\. ") as error:
        trained.learn(ENDLESS, callback=Watches())
    assert "Traceback" in str(error.value.__cause__) and "in crash" in str(error.value.__cause__)
    assert nothing_is_left(trained)


@pytest.mark.slow
def test_a_callback_stops_all_workers():
    trained = model()
    trained.learn(ENDLESS, callback=Watches(updates_to_wait_for=3, stop_at=40))
    assert nothing_is_left(trained) and trained.num_timesteps >= 80


@pytest.mark.slow
def test_an_error_in_the_first_worker_stops_the_others():
    trained = model()

    def fail(locals_, globals_):
        raise ZeroDivisionError("in a callback")

    with pytest.raises(ZeroDivisionError, match="in a callback"):
        trained.learn(ENDLESS, callback=fail)
    assert nothing_is_left(trained)


SCRIPT = """
    import os, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import multiprocessing
    from sb3_pgx import A3C
    from support.a3c_environments import Seldom, nothing
    from support.small_environments import vectorised

    told = []

    def tell(locals_, globals_):
        if not told:
            told.append(print(*(child.pid for child in multiprocessing.active_children()), flush=True))
        return True

    def main():
        A3C("MlpPolicy", vectorised(Seldom(nothing)), n_workers=3, device="cpu", compile=False).learn(10**9, callback=tell)

    {guard}
        main()
"""


@pytest.fixture
def script(tmp_path):
    """Start the script in a process group of its own."""
    started = []

    def start(guard='if __name__ == "__main__":'):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(SCRIPT).format(root=str(ROOT), tests=str(ROOT / "tests"), guard=guard))
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen([sys.executable, str(path)], start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def is_running(pid):
    """Return whether a process runs; one that has ended and is not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_end(pids):
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_running, pids))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is missing")
def test_ctrl_c_ends_all_processes_with_one_traceback(script):
    process = script()
    pids = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert len(pids) == 2 and errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert all_end(pids)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is missing")
def test_workers_end_if_the_first_process_is_killed(script):
    process = script()
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    assert len(pids) == 2 and all_end(pids)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(script):
    _, errors = script(guard="if True:").communicate(timeout=200)
    assert "is gone before it began" in errors and 'outside of `if __name__ == "__main__":`' in errors.splitlines()[-1]
