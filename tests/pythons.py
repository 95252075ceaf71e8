"""
Run the quick suite on every Python that pyproject.toml names: ``make pythons``.

Each one is taken from the search path, as ``python3.10`` and so on, and gets a fresh virtual environment with the versions of
``constraints.txt``. The results are written into ``tests/pythons.txt``, along with the versions that the machine lacks.

    python tests/pythons.py --only 3.12 3.13  # keeps the other lines of the file
"""

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from versions import ROOT, run_suite

RESULT = ROOT / "tests" / "pythons.txt"
LINE = re.compile(r"^Python (3\.\d+).*: .*$", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """
    Run the suites.

    :param arguments: command line; ``None``: that of the process
    :return: exit status: 1 if a suite failed
    """
    named = classifiers()
    parser = argparse.ArgumentParser(prog="make pythons", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--only", nargs="+", choices=named, default=named, help="default: all of %(choices)s")
    parser.add_argument("--processes", type=int, default=2, help="processes of pytest (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=RESULT, help="default: tests/pythons.txt")
    options = parser.parse_args(arguments)
    before = options.file.read_text(encoding="utf-8") if options.file.is_file() else ""
    lines = {match[1]: match[0] for match in LINE.finditer(before)}
    for version in options.only:
        lines[version] = result(version, options.processes)
        print(lines[version], flush=True)
        options.file.write_text("\n".join(lines[v] for v in named if v in lines) + "\n", encoding="utf-8")
    return int(any("failed" in lines[version] for version in options.only))


def classifiers() -> list[str]:
    """Return the versions of Python that pyproject.toml names, such as ``3.10``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", text)


def result(version: str, processes: int) -> str:
    """Return one line on what became of a version, such as ``3.12``."""
    try:
        code = "import platform; print(platform.python_version())"
        found = subprocess.run([f"python{version}", "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"Python {version}: not run: this machine has no python{version}"
    where = f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}"
    return f"Python {found.stdout.strip()}, {where}: {run_suite(f'python{version}', processes=processes)}"


if __name__ == "__main__":
    sys.exit(main())
