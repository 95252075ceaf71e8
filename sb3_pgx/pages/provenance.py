"""Says where numbers come from: the machine, and the commit of the package's code."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


def machine() -> dict[str, Any]:
    """Return the properties of this machine that affect speed: CPU model, cores, system."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def git(root: Path, *arguments: str) -> str | None:
    """Return git's output, or ``None`` if there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip()


def origin() -> str:
    """Return a sentence about this machine and, if the package runs from a checkout, its commit."""
    here = machine()
    sentence = f"Report written on {here['cpu']}, {here['cores']} cores, {here['system']}"
    # The repository of a user whose virtual environment lies in it does not track the package.
    tracked = git(PACKAGE, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = git(PACKAGE, "rev-parse", "--short=12", "HEAD") if tracked else None
    return f"{sentence}{'' if commit is None else f', with commit {commit} of sb3_pgx'}."
