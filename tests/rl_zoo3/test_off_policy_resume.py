"""`sb3-pgx train --resume` of off-policy algorithms: an interrupted run ends bit for bit as one that was not interrupted."""

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.monitor import load_results
from support.interrupted import assert_same_run

from sb3_pgx.checkpoints import newest_checkpoint
from sb3_pgx.registry import OFF_POLICY

if find_spec("rl_zoo3") is None:  # not importorskip: imported, it replaces Gymnasium's TimeLimit for every other test
    pytest.skip("rl_zoo3 is not installed", allow_module_level=True)

INTERRUPTED = """
import gymnasium as gym
from pathlib import Path

class Interrupted(gym.Wrapper):  # as by Ctrl-C, once
    def __init__(self):
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=30))
        self.steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 41 and Path("interrupt").exists():
            Path("interrupt").unlink()
            raise KeyboardInterrupt
        return super().step(action)

gym.register("Interrupted-v0", Interrupted)
"""
PROCESS = """
import json, sys
from pathlib import Path
from support.rl_zoo3_process import run

commands, results = json.load(sys.stdin), []
for i, command in enumerate(commands):
    if i % 3 == 0:
        Path("interrupt").touch()
    results.append(run(command))
json.dump(results, sys.stdout)
"""
ENVIRONMENT = (
    "train --env interrupted:Interrupted-v0 -n 80 --save-freq 16 --save-replay-buffer --eval-freq -1 --seed 0 --device cpu"
)
SETTINGS = "learning_starts:10 batch_size:8 buffer_size:60 learning_rate:'lin_0.001' policy_kwargs:dict(net_arch=[16,16])"
NAMES = ["sac", "td3", "ddpg", "d4pg"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder with three runs of each algorithm: interrupted, then resumed, and in one go; and what they printed."""
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "interrupted.py").write_text(INTERRUPTED)
    tests = Path(__file__).parents[1]
    paths = [str(folder), str(tests), str(tests.parent), *sys.path]
    commands = [
        [*ENVIRONMENT.split(), "--algo", name, "-f", logs, *resume, "-params", *SETTINGS.split(), *more]
        for name in NAMES
        for more in [["normalize:True"] if name == "sac" else ["noise_type:'ornstein-uhlenbeck'", "noise_std:0.3"]]
        for logs, resume in (("parts", []), ("parts", ["--resume"]), ("whole", []))
    ]
    process = subprocess.run(
        [sys.executable, "-c", PROCESS],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    return folder, {name: results[3 * i : 3 * i + 3] for i, name in enumerate(NAMES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_ends_as_one_that_was_not_interrupted(name, zoo):
    folder, printed = zoo
    interrupted, resumed, whole = printed[name]
    assert "The run ended after 40 of 80 steps" in interrupted["out"], interrupted["out"] + interrupted["err"]
    assert "--resume continues from its newest checkpoint" in interrupted["out"]
    newest = os.path.join("parts", name, "Interrupted-v0_1", "rl_checkpoint_32_steps.zip")
    assert f"Resuming {newest}" in resumed["out"] and "Resuming" not in whole["out"]
    runs = [folder / logs / name / "Interrupted-v0_1" for logs in ("parts", "whole")]
    models = [OFF_POLICY[name].load(run / "Interrupted-v0.zip", device="cpu") for run in runs]
    assert models[0].num_timesteps == 80 and models[0]._n_updates > 40
    assert_same_run(*models)
    memories = [vars(pickle.loads((run / "replay_buffer.pkl").read_bytes())) for run in runs]
    for key, value in memories[0].items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, memories[1][key], key)
    assert memories[0]["full"] and memories[0]["pos"] == 20
    episodes = [load_results(str(run))[["r", "l"]].to_numpy() for run in runs]
    np.testing.assert_array_equal(*episodes)
    assert newest_checkpoint(runs[0]).name == "rl_checkpoint_80_steps.zip"
    assert len([*runs[0].glob("rl_checkpoint_*")]) == 1, "only the newest one is kept"
