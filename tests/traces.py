"""
Record what training computes, and compare it after a refactoring that must not change it.

    python tests/traces.py record before.npz     # on the commit before
    python tests/traces.py compare before.npz    # on the commit after: eager traces must be equal bit for bit

A trace is what a few updates leave behind: parameters, optimizer state, and the last row of the log. Traces are recorded for
every cell of the table of capabilities (eager), for saving, loading and training on, and for compiled training.
"""

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import CELLS, DICT, IMAGE, envs, supported
from support.models import make, takes
from support.small_environments import DEVICE

from sb3_pgx.registry import ALGORITHMS

Trace = dict[str, np.ndarray]
ROUNDING = 1e-6  # of compiled traces, relative to the largest number of an array


def trace_of(model: Any) -> Trace:
    """Return parameters, optimizer state and the values that were logged last."""
    trace = {f"parameter {name}": value.detach().cpu().numpy() for name, value in model.policy.state_dict().items()}
    for index, state in model.policy.optimizer.state_dict()["state"].items():
        trace |= {f"optimizer {index} {key}": np.asarray(th.as_tensor(value).cpu()) for key, value in state.items()}
    logged = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
    return trace | {f"log {key}": np.asarray(value, np.float64) for key, value in logged.items()}


def settings() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each setting, and a function that trains and returns its model."""
    for algorithm in ALGORITHMS:
        for cell in CELLS:
            yield f"{algorithm}, {cell}", lambda algorithm=algorithm, cell=cell: CELLS[cell](algorithm)
        for env in ("CartPole-v1", "Pendulum-v1"):
            yield f"{algorithm}, {env}, saved and loaded", lambda a=algorithm, env=env: _resumed(a, env)
            yield f"{algorithm}, {env}, compiled", lambda a=algorithm, env=env: _compiled(a, make_vec_env(env, 2, seed=0))
    for algorithm in ("a2c", "ppo", "trpo"):
        yield f"{algorithm}, picture, compiled", lambda a=algorithm: _compiled(a, envs(IMAGE), "CnnPolicy")
        yield f"{algorithm}, Dict, compiled", lambda a=algorithm: _compiled(a, envs(DICT), "MultiInputPolicy")
        yield f"{algorithm}, gSDE, compiled", lambda a=algorithm: _compiled(a, envs(), use_sde=True)
        yield (
            f"{algorithm}, MultiDiscrete and VecNormalize, compiled",
            lambda a=algorithm: _compiled(a, VecNormalize(envs(action_space=spaces.MultiDiscrete([2, 3])))),
        )


def _compiled(algorithm: str, env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    return make(algorithm, env, policy, compile=True, policy_kwargs=dict(net_arch=[16]), **kwargs).learn(48)


def _resumed(algorithm: str, env: str) -> Any:
    rate = {} if not takes(algorithm, "learning_rate") else dict(learning_rate="lin_1e-3")
    file = io.BytesIO()
    make(algorithm, make_vec_env(env, 2, seed=0), **rate).learn(48).save(file)
    file.seek(0)
    model = ALGORITHMS[algorithm].load(file, make_vec_env(env, 2, seed=1), device=DEVICE)
    return model.learn(48, reset_num_timesteps=False)


def traces() -> Iterator[tuple[str, Trace]]:
    """Train every setting that its algorithm supports."""
    for name, train in settings():
        algorithm, cell = name.split(", ", 1)
        if cell in CELLS and not supported(algorithm, cell):
            continue
        th.manual_seed(0)
        np.random.seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield name, trace_of(train())


def difference(before: Trace, after: Trace) -> tuple[float, str]:
    """
    Return the largest difference, relative to the largest number of the array it is in, and the array's name. Arrays that only
    one of the two has, or that have other shapes, differ by infinity.
    """
    worst = (0.0, "")
    for key in before.keys() | after.keys():
        if key not in before or key not in after or before[key].shape != after[key].shape:
            return np.inf, key
        one, other = (np.asarray(x[key], np.float64) for x in (before, after))
        if np.array_equal(one, other, equal_nan=True):
            continue
        worst = max(worst, (float(np.max(np.abs(one - other)) / max(np.max(np.abs(one)), 1e-12)), key))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("record", "compare"))
    parser.add_argument("file")
    parser.add_argument("--rounding", type=float, default=0.0, help="tolerance of eager traces (default: bit for bit)")
    args = parser.parse_args()
    th.set_num_threads(1)
    gym.logger.min_level = gym.logger.ERROR
    if args.command == "record":
        found = {f"{name}|{key}": value for name, trace in traces() for key, value in trace.items()}
        np.savez_compressed(args.file, **found)
        print(f"{len({name.split('|')[0] for name in found})} settings recorded")
        return 0
    with np.load(args.file) as recorded:
        known: dict[str, Trace] = {}
        for name in recorded.files:
            setting, key = name.split("|", 1)
            known.setdefault(setting, {})[key] = recorded[name]
    failed, equal = 0, 0
    for name, trace in traces():
        size, key = difference(known.pop(name, {}), trace)
        equal += size == 0
        if size > (ROUNDING if name.endswith("compiled") else args.rounding):
            failed += 1
            print(f"{name}: {key} differs by {size:.2g}", flush=True)
    for name in known:
        failed += 1
        print(f"{name}: is gone")
    print(f"{equal} settings are equal bit for bit, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
