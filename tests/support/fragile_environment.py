"""
An environment that kills its process or the parent of that, hangs, or raises, as often as a file says. It records each start
of a run.
"""

import json
import os
import signal
import time
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

from sb3_pgx.experiments.runs import SEED_STRIDE

ENV = "support.fragile_environment:Fragile-v0"
FOLDER = "SB3_PGX_TEST_FRAGILE"  # variable with the folder of the two files below; without it, nothing fails
FAULTS, STARTS = "faults.json", "starts"


class Fragile(CartPoleEnv):
    def reset(self, *, seed=None, options=None):
        if seed is not None and seed % SEED_STRIDE == 0 and seed < 10 * SEED_STRIDE and FOLDER in os.environ:
            self._start(Path(os.environ[FOLDER]), seed // SEED_STRIDE)
        return super().reset(seed=seed, options=options)

    def _start(self, folder, seed):
        """Begin the run of a seed: record it, and fail if it is not yet its turn to succeed."""
        with (folder / STARTS).open("a") as file:
            file.write(f"{seed}\n")
        kind, times = json.loads((folder / FAULTS).read_text()).get(str(seed), ("", 0))
        if starts(folder).count(seed) <= times:
            if kind in ("kill", "kill parent"):
                os.kill(os.getpid() if kind == "kill" else os.getppid(), signal.SIGKILL)
            if kind in ("hang", "kill parent"):
                time.sleep(1e6)
            raise RuntimeError("the power supply is broken")


def starts(folder):
    """Return the seed of each start, in order."""
    path = folder / STARTS
    return [int(line) for line in path.read_text().split()] if path.exists() else []


if "Fragile-v0" not in gymnasium.registry:
    gymnasium.register("Fragile-v0", f"{__name__}:Fragile", max_episode_steps=10)
