"""Measure one contender in its own process: build it, warm it up, and time it through the public interface."""

import gc
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from benchmarks.speed.cases import DIAGNOSTICS, UNMASKED, Case, contender_class
from benchmarks.speed.environments import make_environments
from benchmarks.speed.phases import timed_phases
from benchmarks.speed.results import PhaseRound, Round
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.stages.algorithm import ceil_div

SEED = 0
WARM_UP = 3  # iterations: the first compiles, the second fills caches, the third is normal
ACTIONS = 64  # different random actions for the ceiling, drawn before the clock starts

T = TypeVar("T")


class Measurement:
    """
    A model that is timed repeatedly.

    :param case: case of the benchmark
    :param contender: name of the algorithm
    """

    def __init__(self, case: Case, contender: str):
        env = make_environments(case.env_id, case.n_envs, contender, SEED)
        arguments: dict[str, Any] = case.arguments(contender)
        self.case = case
        self.model = contender_class(contender)(case.policy, env, seed=SEED, device="cpu", verbose=0, **arguments)
        self.model.set_logger(Logger(None, []))  # SB3 would make a folder at each call of learn
        self.options = {"use_masking": False} if contender.endswith(UNMASKED) else {}  # of `learn`
        self.diagnostics = DiagnosticsCallback() if contender.endswith(DIAGNOSTICS) else None

    def warm_up(self) -> float:
        """
        Run the first iterations, which compile.

        :return: seconds in excess of the time that the same number of iterations takes at the fastest one's speed
        """
        seconds = [self.round(1).seconds for _ in range(WARM_UP)]
        return sum(seconds) - len(seconds) * min(seconds)

    def round(self, timesteps: int, diagnosed: bool = True) -> Round:
        """
        Continue training.

        :param timesteps: smallest number of environment steps; the last rollout is completed
        :param diagnosed: whether to use the diagnostics callback, if the contender has one
        """
        callback = self.diagnostics if diagnosed else None
        before, start = self.model.num_timesteps, time.perf_counter()
        self.model.learn(timesteps, callback, reset_num_timesteps=False, **self.options)
        return Round(self.model.num_timesteps - before, time.perf_counter() - start)

    def phase_round(self, timesteps: int, diagnosed: bool = True) -> PhaseRound:
        """Continue training with a stopwatch on every phase; arguments as :meth:`round`."""
        callback = self.diagnostics if diagnosed else None
        before = getattr(self.model, "n_gradient_steps", 0)
        with timed_phases(self.model, callback) as stopwatch:
            self.model.learn(timesteps, callback, reset_num_timesteps=False, **self.options)
            seconds = stopwatch.seconds()
        steps = stopwatch.calls["update"] * gradient_steps_per_update(self.model)
        if hasattr(self.model, "replay_ratio"):  # ACER draws the number of updates
            steps = self.model.n_gradient_steps - before
        return PhaseRound(seconds, stopwatch.calls["environment"], steps)

    def peak_memory(self) -> float:
        """Return the peak resident memory of this process in MiB."""
        return peak_memory()

    def data_bytes(self) -> int:
        """Return the bytes of all tensors of this process and of the rollout buffer's arrays, between two updates."""
        gc.collect()
        # Compare types: compilers leave tensors without data behind, and isinstance makes lazy modules warn.
        storages = [x.untyped_storage() for x in gc.get_objects() if type(x) in (th.Tensor, th.nn.Parameter)]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        buffer = getattr(self.model, "rollout_buffer", None)
        arrays = [x for x in vars(buffer).values() if isinstance(x, np.ndarray)] if buffer is not None else []
        return sum({**{x.ctypes.data: x.nbytes for x in arrays}, **held}.values())

    def ceiling(self, timesteps: int) -> Round:
        """Step the environments with random actions and no algorithm: no algorithm can be faster than this."""
        env = make_environments(self.case.env_id, self.case.n_envs, self.case.algorithm, SEED)
        env.reset()
        env.action_space.seed(SEED)
        actions = [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(ACTIONS)]
        n_steps = max(ceil_div(timesteps, env.num_envs), self.model.n_steps)
        start = time.perf_counter()
        for step in range(n_steps):
            env.step(actions[step % ACTIONS])
        seconds = time.perf_counter() - start
        env.close()
        return Round(n_steps * env.num_envs, seconds)


class Process:
    """
    A :class:`Measurement` in a fresh process, which keeps the model between calls. Process-wide state, such as a compiler's or
    JAX's threads, does not affect other contenders.

    :param case: case of the benchmark
    :param contender: name of the algorithm
    :param cache: folder for compiled code, with a subfolder per contender
    :param prepare: called in the process before the contender is built
    """

    def __init__(self, case: Case, contender: str, cache: Path, prepare: Callable[[], None] | None = None):
        folder = cache / contender.replace(":", "-")
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _initialize, (folder, prepare))
        self._built = self._pool.submit(_build, case, contender)

    def wait(self) -> None:
        """Wait until the model is built. An error while building it is raised here."""
        self._built.result()

    def call(self, method: Callable[..., T], *args: Any) -> T:
        """
        Call a method of :class:`Measurement` in the process and wait for its result.

        :raises Exception: any error of the method
        """
        self.wait()
        return self._pool.submit(_call, method.__name__, *args).result()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def gradient_steps_per_update(model: BaseAlgorithm) -> int:
    """Return the number of gradient steps per update: minibatches times epochs; 1 if the algorithm has no epochs."""
    if not hasattr(model, "n_epochs"):
        return 1
    rows = model.n_steps * model.n_envs  # type: ignore[attr-defined]
    return model.n_epochs * ceil_div(rows, model.batch_size)  # type: ignore[attr-defined]


def peak_memory() -> float:
    """Return the peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss survives exec: a child would report its parent's peak if that is higher.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


_measurement: Measurement


def _initialize(cache: Path, prepare: Callable[[], None] | None) -> None:
    """Prepare the process before any module that reads these variables is imported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C, too, and lets the round end
    os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["SB3_PGX_CACHE_DIR"] = str(cache), str(cache / "graphs")
    os.environ["JAX_PLATFORMS"] = "cpu"
    th.set_num_threads(1)
    if prepare is not None:
        prepare()


def _build(case: Case, contender: str) -> None:
    global _measurement
    _measurement = Measurement(case, contender)


def _call(method: str, *args: Any) -> Any:
    return getattr(_measurement, method)(*args)
