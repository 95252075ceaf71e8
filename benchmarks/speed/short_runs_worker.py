"""One short run, as a person would write it: the process behind ``short_runs.py``. It prints the seconds of ``learn``."""

import json
import sys
import time
from importlib import import_module

import torch as th


def main(case: dict) -> None:
    """Train once."""
    th.set_num_threads(1)
    arguments = dict(case["arguments"])
    package = import_module("stable_baselines3" if case["contender"] == "SB3" else "sb3_pgx")
    if case["contender"] == "eager":
        arguments["compile"] = False
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", case["n_envs"], seed=case["seed"])
    model = getattr(package, case["algorithm"])("MlpPolicy", env, seed=case["seed"], device="cpu", **arguments)
    start = time.perf_counter()
    model.learn(case["timesteps"])
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
