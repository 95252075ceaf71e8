"""
Train one case with the package that comes first on the path, and time it: the process behind ``pairs.py``.

It uses only what every commit of the package has, so that it runs with any of them. It prints one line when the model is warm,
and then the seconds of each training, whose number of steps it reads from a line of the standard input.
"""

import gc
import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

import sb3_pgx

WARM_UP = 3  # iterations: the first compiles, the second fills caches
NAMES = {cls.__name__.lower(): cls for cls in map(vars(sb3_pgx).get, sb3_pgx.__all__) if isinstance(cls, type)}
ARRAYS = ("arrays", "envpool")


def arrays(case: dict) -> VecEnv:
    """Make environments that step as arrays, which early commits lack."""
    environments = import_module("benchmarks.speed.environments")
    return environments.make_environments(case["env_id"], case["n_envs"], case["algorithm"], 0)


def main(case: dict) -> None:
    """Build the model, warm it up, and train as often as asked."""
    th.set_num_threads(1)
    name, _, variant = case["algorithm"].partition("+")
    env = arrays(case) if variant in ARRAYS else make_vec_env(case["env_id"], case["n_envs"], seed=0)
    model = NAMES[name.replace("_", "")](case["policy"], env, seed=0, device="cpu", verbose=0, **case["arguments"])
    model.set_logger(Logger(None, []))
    callback = None
    if variant == "diagnostics":
        room = next(name for name in ("diagnostics", "callbacks") if find_spec(f"sb3_pgx.{name}"))  # the older commits' name
        callback = import_module(f"sb3_pgx.{room}").DiagnosticsCallback()
    for _ in range(WARM_UP):
        model.learn(1, callback, reset_num_timesteps=False)
    gc.collect()
    print("warm", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        model.learn(int(line), callback, reset_num_timesteps=False)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
