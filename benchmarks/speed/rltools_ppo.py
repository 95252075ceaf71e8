"""RLtools' PPO (Eschmann et al., 2024; MIT licence) on its own Pendulum-v1, with the methods that the benchmark calls."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.optional_packages import installed_versions
from sb3_pgx.stages.algorithm import ceil_div

WORKER = Path(__file__).with_name("rltools_worker.py")
MKL = ("mkl", "mkl-include")


def missing(mkl: bool) -> str | None:
    """
    Return what RLtools lacks here, with the remedy; ``None`` if it can be built.

    :param mkl: whether Intel's MKL is to multiply the matrices
    """
    install = 'pip install "rltools[mkl]"' if mkl else "pip install rltools"
    if not find_spec("rltools"):
        return f"rltools, which is not installed: {install}"
    if mkl and len(installed_versions(MKL)) < len(MKL):
        return f"MKL, which is not installed: {install}"
    if not (shutil.which("g++") or shutil.which("clang++")):
        return "a C++ compiler, which is not installed: install g++"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Python's C headers, which are not installed: install python3-dev"
    return None


class RLToolsPPO:
    """
    RLtools' PPO. It learns in RLtools' Pendulum, which is part of the compiled loop, with SB3's network (two layers of 64 tanh
    units for the policy and two for V) and SB3's coefficients. Matrices are multiplied by RLtools' own code. RLtools does not
    clip the gradient, does not bootstrap truncated episodes, and keeps no statistics.

    A process of its own builds and runs it, because RLtools' MKL and PyTorch's do not get along.

    :param policy: ``"MlpPolicy"``
    :param env: environments of Pendulum-v1; only their number is used
    :param n_steps: steps of a rollout per environment
    :param batch_size: rows of a minibatch
    :param n_epochs: gradient steps per row
    :param seed: seed of all random numbers
    :param device: ``"cpu"``
    :param verbose: not used
    :raises RuntimeError: the build or the training failed; the message is the last line of its output
    """

    mkl: ClassVar[bool] = False

    def __init__(
        self,
        policy: str,
        env: VecEnv,
        n_steps: int,
        batch_size: int,
        n_epochs: int,
        seed: int = 0,
        device: str = "cpu",
        verbose: int = 0,
    ):
        assert policy == "MlpPolicy" and device == "cpu" and env.observation_space.shape == (3,)
        self.num_timesteps = 0
        self._rows = n_steps * env.num_envs
        self._folder = TemporaryDirectory(prefix="sb3-pgx-rltools-")
        self._log = Path(self._folder.name, "log.txt")
        job = {"n_envs": env.num_envs, "n_steps": n_steps, "batch_size": batch_size, "n_epochs": n_epochs, "seed": seed}
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps({**job, "mkl": self.mkl, "folder": self._folder.name})],
                env={**os.environ, **threads, "PYTHONSAFEPATH": "1", "TMPDIR": self._folder.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._wait()

    def set_logger(self, logger: Any) -> None:
        """Do nothing: RLtools logs nothing here."""

    def learn(self, total_timesteps: int, callback: None = None, reset_num_timesteps: bool = False) -> "RLToolsPPO":
        """Continue training until the rollout is complete that reaches this number of steps."""
        rollouts = ceil_div(total_timesteps, self._rows)
        assert self._process.stdin is not None
        print(rollouts, file=self._process.stdin, flush=True)
        self._wait()
        self.num_timesteps += rollouts * self._rows
        return self

    def _wait(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            output = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
            raise RuntimeError(f"RLtools ended with exit code {self._process.wait()}: {output[-1]}")


class RLToolsPPOWithMKL(RLToolsPPO):
    """RLtools' PPO, with matrices multiplied by Intel's MKL."""

    mkl = True
