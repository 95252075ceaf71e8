"""A short comparison, and a check that two folders hold the same one."""

import csv
import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

ENV = "support.comparisons:Ten-v0"
TABLES = ("runs.csv", "curves.csv", "summary.csv")
TIMED = ("training_seconds", "frames_per_second", "seconds")

if "Ten-v0" not in gymnasium.registry:
    entry = "gymnasium.envs.classic_control:CartPoleEnv"
    gymnasium.register("Ten-v0", entry, max_episode_steps=10, reward_threshold=9.0)


@pytest.fixture(scope="module")
def importable():
    """Let processes that tests start import the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
        yield


def comparison_into(folder, seeds=5, env=ENV):
    """Return the command of a comparison with one run per seed."""
    command = ["compare", "--env", env, "--algos", "sb3:a2c", "--timesteps", "80", "--eval-episodes", "2"]
    return [*command, "--seeds", str(seeds), "--output", str(folder)]


def tables(folder):
    """Return everything that does not depend on time."""
    found = {}
    for name in TABLES:
        with (folder / name).open(newline="") as file:
            rows = [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]
        found[name] = [row for row in rows if row.get("statistic") != "frames per second"]
    return found


def assert_same(folder, expected):
    """Check that two folders hold the same runs and the same tables."""
    runs = [{path.relative_to(f).as_posix() for path in f.rglob("*-seed*.json")} for f in (folder, expected)]
    assert runs[0] == runs[1]
    np.testing.assert_equal(tables(folder), tables(expected))
