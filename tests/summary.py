"""
Run the whole suite, slow tests included, and write its summary into ``tests/summary.txt``: ``make test-all``.

The summary names the commit, the versions and the machine, and lists what failed.
"""

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = ROOT / "tests" / "summary.txt"
COMMAND = ["-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", "-m", "slow or not slow"]
PACKAGES = ("torch", "stable_baselines3", "gymnasium", "numpy", "sb3_contrib", "optuna", "rl_zoo3")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    tail: list[str] = []
    with subprocess.Popen([sys.executable, *COMMAND], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"(FAILED|ERROR) |.*\d+ (passed|failed|error)", line):
                tail.append(line.rstrip())
    lines = [
        f"commit {commit}{', with uncommitted changes' if changed else ''}, {time.strftime('%Y-%m-%d')}",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, "
        + ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        "make test-all",
        *tail,
    ]
    SUMMARY.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
