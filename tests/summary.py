"""
Run the whole suite, slow tests included, and write its summary into ``tests/summary.txt``: ``make test-all``.

The summary names the commit, the versions and the machine, and lists what failed. ``make test-gpu`` runs the suite with the
models on CUDA, and writes ``tests/gpu.txt``.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch as th

ROOT = Path(__file__).resolve().parents[1]
SUMMARY, ON_CUDA = ROOT / "tests" / "summary.txt", ROOT / "tests" / "gpu.txt"
COMMAND = ["-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", "-m", "slow or not slow"]
PACKAGES = ("torch", "stable_baselines3", "gymnasium", "numpy", "sb3_contrib", "optuna", "rl_zoo3")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: that of the suite."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cuda", action="store_true", help="keep models on CUDA, and write tests/gpu.txt")
    on_cuda = parser.parse_args(arguments).cuda
    if on_cuda and not th.cuda.is_available():
        parser.error(f"torch {th.__version__} finds no CUDA device: install a build for CUDA on a machine that has one")
    environment = {**os.environ, "SB3_PGX_TEST_DEVICE": "cuda"} if on_cuda else None
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    tail: list[str] = []
    with subprocess.Popen([sys.executable, *COMMAND], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"(FAILED|ERROR) |.*\d+ (passed|failed|error)", line):
                tail.append(line.rstrip())
    lines = [
        f"commit {commit}{', with uncommitted changes' if changed else ''}, {time.strftime('%Y-%m-%d')}",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, "
        + ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        f"make test-gpu, on {th.cuda.get_device_name()}, CUDA {th.version.cuda}" if on_cuda else "make test-all",
        *tail,
    ]
    (ON_CUDA if on_cuda else SUMMARY).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
