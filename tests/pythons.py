"""
Run the quick suite on the versions of Python that pyproject.toml names: ``make pythons``, or one of them:
``make pythons PYTHONS=3.12``.

Each one is ``python3.12`` of the search path, or the newest one of pyenv. It gets a fresh virtual environment with the
versions of ``constraints.txt`` in the folder for temporary files. Most of the download is torch: 0.2 GB for a CPU build, and
1.4 GB where the package index has builds for CUDA alone, which take 6 GB on the disk until the run has ended. Each result is
written into ``tests/pythons.txt`` as soon as it is there, in the place of that version's earlier result.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from versions import ROOT, run_suite, why_not

RESULT = ROOT / "tests" / "pythons.txt"
LINE = re.compile(r"^Python (3\.\d+).*: .*$", re.MULTILINE)
LIMIT = 2000  # megabytes to download for one version


def main(arguments: list[str] | None = None) -> int:
    """
    Run the suites.

    :param arguments: command line; ``None``: that of the process
    :return: exit status: 1 if a suite failed
    """
    named = classifiers()
    parser = argparse.ArgumentParser(prog="python tests/pythons.py", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"default: {', '.join(named)}")
    parser.add_argument("--processes", type=int, default=2, help="processes of pytest (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=LIMIT, help="megabytes to download for a version (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=RESULT, help="default: tests/pythons.txt")
    options = parser.parse_args(arguments)
    chosen = options.versions or named
    for version in chosen:
        if version not in named:
            parser.error(f"{version} is none of the versions that pyproject.toml names: {', '.join(named)}")
    for version in chosen:
        print(f"Python {version}: installing and testing, which takes some minutes", flush=True)
        line = result(version, options.processes, options.limit)
        print(line, flush=True)
        before = options.file.read_text(encoding="utf-8") if options.file.is_file() else ""
        lines = {**{match[1]: match[0] for match in LINE.finditer(before)}, version: line}
        options.file.write_text("\n".join(lines[v] for v in named if v in lines) + "\n", encoding="utf-8")
    return int(any("failed" in lines[version] for version in chosen))


def classifiers() -> list[str]:
    """Return the versions of Python that pyproject.toml names, such as ``3.10``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", text)


def result(version: str, processes: int, limit: int) -> str:
    """Return one line on what became of a version, such as ``3.12``."""
    found = interpreter(version)
    if found is None:
        return f"Python {version}: not run: neither the search path nor pyenv has it"
    python, exact = found
    torch = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert torch is not None, "constraints.txt pins no torch any more"
    where = f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}"
    return f"Python {exact}, {where}: {why_not(python, torch[1], limit) or run_suite(python, processes=processes)}"


def interpreter(version: str) -> tuple[str, str] | None:
    """Return a Python of a version and what it says its version is, or ``None``."""
    of_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python")
    newest_first = sorted(of_pyenv, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])], reverse=True)
    for python in (f"python{version}", *map(str, newest_first)):
        try:
            told = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # a shim of pyenv is there for versions that are switched off, too
            continue
        return python, told.stdout.split()[1]
    return None


if __name__ == "__main__":
    sys.exit(main())
