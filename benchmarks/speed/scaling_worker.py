"""One process of a run whose environments cost time, behind ``scaling.py``. The first one prints what it measured."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pgx import PPO
from sb3_pgx.environments import spread
from sb3_pgx.parallel import is_first, joined_processes


class Costly(gym.Env):
    """
    Returns random observations, and takes a given time for each step.

    :param seconds: of a step
    :param spins: whether it occupies a core, or sleeps
    """

    observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, seconds: float, spins: bool):
        self.seconds, self.spins = seconds, spins

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        end = time.perf_counter() + self.seconds
        if not self.spins:
            time.sleep(self.seconds)
        while time.perf_counter() < end:
            pass
        return self._observation(), float(action[0]), bool(self.np_random.random() < 0.01), False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 8).astype(np.float32)


class Clock(BaseCallback):
    """Notes when each rollout starts and ends, and how many bytes this process has sent and received by then."""

    def __init__(self, moved: Callable[[], int]):
        super().__init__()
        self._moved = moved
        self.starts: list[tuple[float, int]] = []
        self.ends: list[float] = []

    def _on_rollout_start(self) -> None:
        self.starts.append((time.perf_counter(), self._moved()))

    def _on_rollout_end(self) -> None:
        self.ends.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def main(job: dict[str, Any]) -> None:
    """Train, and print seconds per iteration and per rollout, and bytes that the first process moves per iteration."""
    th.set_num_threads(1)
    processes = joined_processes()

    def make(rows: range) -> DummyVecEnv:
        return DummyVecEnv([lambda: Costly(job["seconds"], job["spins"]) for _ in rows])

    env = spread(make, job["n_envs"], job["parallel"])
    settings = dict(n_steps=job["n_steps"], batch_size=job["batch_size"], n_epochs=job["n_epochs"], compile=job["compile"])
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **settings)
    clock = Clock(lambda: 0 if processes is None else processes.bytes_moved)
    rows = job["n_steps"] * job["n_envs"]
    model.learn((job["iterations"] + 2) * rows, callback=clock, log_interval=None)
    if is_first():
        (first, moved_before), (last, moved_after) = clock.starts[1], clock.starts[-1]  # without compiling
        n = len(clock.starts) - 2
        rollouts = [end - start for (start, _), end in zip(clock.starts[1:-1], clock.ends[1:-1], strict=True)]
        result = {"iteration": (last - first) / n, "rollout": sum(rollouts) / n, "bytes": (moved_after - moved_before) / n}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
