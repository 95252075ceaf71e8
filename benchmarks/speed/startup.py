"""
Time how long each algorithm takes to start in a fresh process: compiled on a first start, compiled on a later one, and eager.

    python -m benchmarks.speed.startup               # writes benchmarks/results/speed/startup.json
    python -m benchmarks.speed.startup --algorithms ppo trpo --restarts 1 --dry

The time is that of a ``learn`` that ends after the first update: it collects one rollout, compiles or loads what the algorithm
compiles, and updates once, with the algorithm's default arguments on CartPole-v1 and with one torch thread. A first start has
neither this package's kept graphs nor the compiler's own cache; a later one has the graphs only. The kinds of start take
turns. The file keeps the entries that are not measured again.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import RESULTS
from benchmarks.speed.entries import measure_entries
from benchmarks.speed.fresh_process import run_fresh
from sb3_pgx.registry import ALGORITHMS

FILE = RESULTS / "speed" / "startup.json"
WORKER = Path(__file__).with_name("startup_worker.py")
FIRST, LATER, EAGER = "first start", "later start", "eager"
STARTS = {FIRST: True, LATER: True, EAGER: False}  # whether the start compiles; in this order the later one finds the graphs
IMPORTS = "imports"
PACKAGES = ("sb3_pgx", "stable_baselines3")
RESTARTS = 3

Seconds = dict[str, list[float]]


def measure(algorithm: str, restarts: int) -> Seconds:
    """Return the seconds up to the end of the first update by kind of start, one per restart."""
    seconds: Seconds = {start: [] for start in STARTS}
    for restart in range(restarts):
        with tempfile.TemporaryDirectory(prefix="sb3-pgx-startup-") as folder:
            for start, compiled in STARTS.items():
                job = {"package": "sb3_pgx", "algorithm": ALGORITHMS[algorithm].__name__, "compile": compiled, "seed": restart}
                learn, _ = run_fresh(WORKER, job, Path(folder, "graphs"), Path(folder, start.replace(" ", "-")))
                seconds[start].append(round(learn, 3))
    return seconds


def measure_imports(restarts: int) -> Seconds:
    """Return the seconds of importing this package, and SB3, which is most of it, one per restart."""
    seconds: Seconds = {package: [] for package in PACKAGES}
    with tempfile.TemporaryDirectory(prefix="sb3-pgx-startup-") as folder:
        for _ in range(restarts):
            for package in PACKAGES:
                imported, _ = run_fresh(WORKER, {"package": package}, Path(folder), Path(folder))
                seconds[package].append(round(imported, 3))
    return seconds


def markdown(record: dict[str, Any]) -> str:
    """Return a table of median seconds by algorithm, with the lowest and highest, and a line about the imports."""
    lines = [f"| seconds to the end of the first update | {' | '.join(STARTS)} |", "|---|--:|--:|--:|"]
    for name, entry in record.items():
        if name != IMPORTS:
            lines.append(f"| `{name}` | {' | '.join(_spread(entry['seconds'][start]) for start in STARTS)} |")
    if IMPORTS in record:
        imports = [f"`import {package}` takes {_spread(s)} s" for package, s in record[IMPORTS]["seconds"].items()]
        lines += ["", f"{'; '.join(imports)}."]
    return "\n".join(lines)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.startup", description=__doc__.strip().split("\n")[0])
    names = [*ALGORITHMS, IMPORTS]
    parser.add_argument(
        "--algorithms", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)} (default: all)"
    )
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="processes per kind of start (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=FILE, help="default: benchmarks/results/speed/startup.json")
    parser.add_argument("--dry", action="store_true", help="print the table and write no file")
    options = parser.parse_args(arguments)
    if options.restarts < 1:
        parser.error(f"--restarts is {options.restarts}; it must be at least 1")
    command = f"python -m benchmarks.speed.startup {' '.join(arguments)}".strip()

    def seconds(name: str) -> Seconds:
        return measure_imports(options.restarts) if name == IMPORTS else measure(name, options.restarts)

    measure_entries(names, options.algorithms, seconds, markdown, command, options.file, options.dry)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
