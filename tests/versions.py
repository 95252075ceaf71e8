"""
Run the quick suite on the oldest and the newest torch that pyproject.toml allows: ``make versions``.

Each version is installed into a fresh virtual environment of its own, if all that has to be downloaded is small enough: by
default a build for the CPU. ``python tests/versions.py --limit 5000`` takes a build for CUDA, too. The results are written
into ``tests/versions.txt``, along with the reason why a version was not run.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests" / "versions.txt"
LIMIT = 400  # megabytes to download for one version: a build for the CPU has half of it, one for CUDA a multiple


def main() -> int:
    """Return the exit status: 1 if a version was run and failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help="megabytes to download for one version (default: %(default)s)"
    )
    limit = parser.parse_args().limit
    results = {version: _result(version, limit) for version in _versions()}
    head = f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    command = "make versions" if limit == LIMIT else f"python tests/versions.py --limit {limit}"
    lines = [head, command, *(f"torch {version}: {result}" for version, result in results.items())]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    return int(any("failed" in result for result in results.values()))


def _versions() -> tuple[str, str]:
    """Return the oldest and the newest version that pyproject.toml allows and the package index has."""
    requirement = re.search(r'"torch>=(\d+)\.(\d+),<(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert requirement is not None, 'pyproject.toml does not require "torch>=…,<…" any more'
    *oldest, major = map(int, requirement.groups())
    listed = _pip(sys.executable, "index", "versions", "torch").stdout
    (line,) = [x for x in listed.splitlines() if x.startswith("Available versions:")]
    known = {tuple(map(int, v.split("."))): v for v in re.findall(r"\b\d+\.\d+\.\d+\b(?!\+)", line)}
    allowed = [numbers for numbers in sorted(known) if oldest <= [*numbers] and numbers[0] < major]
    return known[allowed[0]], known[allowed[-1]]


def _result(version: str, limit: int) -> str:
    """Return one line on what became of a version."""
    return why_not(sys.executable, version, limit) or run_suite(sys.executable, torch=version)


def why_not(interpreter: str, torch: str, limit: int) -> str | None:
    """
    Return why the suite is not run, if torch's builds are not there or too large.

    :param interpreter: the Python to use
    :param torch: version of torch
    :param limit: megabytes that may be downloaded for torch and what it requires
    """
    needed = _megabytes(interpreter, torch)
    if needed is None:
        return "not run: the package index has no build for this machine"
    if needed > limit:
        return f"not run: {needed} MB would have to be downloaded for it on this machine, more than {limit} MB"
    return None


def run_suite(interpreter: str, torch: str | None = None, processes: int = 2) -> str:
    """
    Run the quick suite in a fresh virtual environment.

    :param interpreter: the Python to use
    :param torch: version of torch; ``None``: that of ``constraints.txt``
    :param processes: processes of pytest
    :return: one line: the summary of the tests, with those that failed, or why nothing was installed
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        constraints = Path(folder) / "constraints.txt"
        pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        kept = [line for line in pinned if torch is None or not line.startswith("torch==")]
        constraints.write_text("\n".join(kept), encoding="utf-8")
        wanted = [f"torch=={torch}"] if torch else []
        installed = _pip(python, "install", "-c", str(constraints), *wanted, "--editable", f"{ROOT}[tests]")
        if installed.returncode:
            return f"failed to install: {installed.stderr.strip().splitlines()[-1]}"
        command = [python, "-m", "pytest", "-q", "-n", str(processes)]
        tests = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return "; ".join(re.findall(r"^(?:(?:FAILED|ERROR) .*|.*\d+ (?:passed|failed|error).*)$", tests.stdout, re.MULTILINE))


def _megabytes(interpreter: str, torch: str) -> int | None:
    """Return the size of the wheels of torch and of what it requires, or ``None`` if there is no such wheel."""
    options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--quiet", "--report", "-"]
    found = _pip(interpreter, "install", *options, f"torch=={torch}")
    if found.returncode:
        return None
    urls = [package["download_info"]["url"] for package in json.loads(found.stdout)["install"]]
    return sum(map(_bytes, urls)) // 10**6


def _bytes(url: str) -> int:
    if url.startswith("file:"):
        return 0
    with urlopen(Request(url, method="HEAD")) as answer:
        return int(answer.headers["Content-Length"])


def _pip(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip without the machine's own constraints, which may forbid a version."""
    environment = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    command = [python, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


if __name__ == "__main__":
    sys.exit(main())
