"""One start: the process behind ``startup.py``. It prints the seconds of an import, or of ``learn`` up to its first update."""

import json
import sys
import time
from importlib import import_module


def main(job: dict) -> None:
    """Import a package; if the job names an algorithm of it, time its first update instead of the import."""
    start = time.perf_counter()
    package = import_module(job["package"])
    imported = time.perf_counter() - start
    print(
        seconds_of_learn(getattr(package, job["algorithm"]), job["compile"], job["seed"]) if "algorithm" in job else imported
    )


def seconds_of_learn(algorithm: type, compiled: bool, seed: int) -> float:
    """Return the seconds of a ``learn`` with one rollout."""
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    th.set_num_threads(1)
    model = algorithm("MlpPolicy", make_vec_env("CartPole-v1", 1, seed=seed), seed=seed, device="cpu", compile=compiled)
    start = time.perf_counter()
    model.learn(1)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
