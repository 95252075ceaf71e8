"""One torch thread a process: the suite runs on as many processes as there are cores. And the fixtures of several files."""

import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch as th
from selection import RELATIVES, mostly_slow
from support.small_environments import DEVICE

from sb3_pgx.engine.compiler import signature, using_backend
from sb3_pgx.registry import ALGORITHMS

th.set_num_threads(1)
# Processes that tests start have one thread, too, and import the package of this checkout, which may not be the installed one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
# Processes that a fork server starts, such as those of SubprocVecEnv, need not import what takes seconds. Every optimizer of
# torch imports torch._dynamo.
PRELOADED = ["torch._dynamo", "stable_baselines3", "sb3_pgx", "sb3_pgx.checkpoints"]
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


def pytest_configure(config):
    """Keep compiled graphs in a folder of this run, which all of its processes share, and not in the user's."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="sb3-pgx-tests-")
        os.environ["SB3_PGX_CACHE_DIR"] = os.path.join(folder, "graphs")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def process_wide_state_stays_as_it_is():
    """No test may leave torch's process-wide settings changed, and so neither may what it calls."""
    before = (th.distributions.Distribution._validate_args, th.get_default_dtype(), th.get_num_threads(), th.is_grad_enabled())
    yield
    after = (th.distributions.Distribution._validate_args, th.get_default_dtype(), th.get_num_threads(), th.is_grad_enabled())
    assert after == before


@pytest.fixture(params=mostly_slow(ALGORITHMS, lambda name: name not in RELATIVES))
def name(request):
    """Every algorithm of the registry, in a test that does not say itself which."""
    return request.param


@pytest.fixture
def on_the_tests_device():
    """Tensors that a test makes are made there."""
    with th.device(DEVICE):
        yield


@pytest.fixture
def graphs():
    """The graphs that are made from here on; they run as they were traced, for such arguments as they were made for alone."""
    made = []

    def backend(graph, examples):
        promised = signature(examples)
        made.append(graph)

        def run(*arguments):
            assert signature(arguments) == promised, "kernels would read something else, and not notice"
            return graph(*arguments)

        return run

    with using_backend(backend):
        yield made


@pytest.fixture
def validation_stays_on(monkeypatch):
    """``torch.compile``, once used, turns the validation of distributions off for good; this package does not use it."""
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", th.distributions.Distribution._validate_args)
