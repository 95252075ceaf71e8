"""
Time whole short runs, each in a fresh process: SB3, this package eager, compiled on a first start, and on a later one.

    python -m benchmarks.speed.short_runs            # writes benchmarks/results/speed/short_runs.json
    python -m benchmarks.speed.short_runs --cases a2c-100k --seeds 1 --dry

A first start has neither this package's kept graphs nor the compiler's own cache. Contenders take turns, one at a time, with
one torch thread each. ``learn`` is the time of the call; the process is timed from outside, imports and set-up included.
The file keeps the cases that are not measured again.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.speed.entries import measure_entries
from benchmarks.speed.fresh_process import run_fresh

FILE = RESULTS / "speed" / "short_runs.json"
WORKER = Path(__file__).with_name("short_runs_worker.py")
SB3, EAGER, FIRST, LATER = "SB3", "eager", "first start", "later start"
CONTENDERS = (SB3, EAGER, FIRST, LATER)
SEEDS = 3


@dataclass(frozen=True)
class ShortRun:
    """
    One script that a person tries.

    :param name: name of the case
    :param algorithm: ``"PPO"`` or ``"A2C"``
    :param timesteps: budget of ``learn``
    :param n_envs: number of environments
    :param arguments: of the constructor, in both packages
    """

    name: str
    algorithm: str
    timesteps: int
    n_envs: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)


EIGHT = {"n_steps": 256}
_CASES = (
    *(ShortRun(f"ppo-{n // 1000}k", "PPO", n) for n in (25_000, 50_000, 100_000, 300_000)),
    *(ShortRun(f"ppo-8x256-{n // 1000}k", "PPO", n, 8, EIGHT) for n in (25_000, 100_000)),
    ShortRun("a2c-100k", "A2C", 100_000),
)
CASES = {case.name: case for case in _CASES}


def measure(case: ShortRun, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of ``learn`` and of the whole process, by contender, one for each seed."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"learn": [], "process": []} for name in CONTENDERS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="sb3-pgx-short-") as cache:  # the later start finds what the first one keeps
            for name in CONTENDERS:
                learn, process = _run(case, name, seed, Path(cache))
                seconds[name]["learn"].append(round(learn, 3))
                seconds[name]["process"].append(round(process, 3))
    return seconds


def _run(case: ShortRun, contender: str, seed: int, cache: Path) -> tuple[float, float]:
    # Of a later start only this package's graphs are there: what it needs of the compiler's own cache would be a mistake.
    job = {**asdict(case), "contender": contender, "seed": seed}
    return run_fresh(WORKER, job, cache / "graphs", cache / contender.replace(" ", "-"))


def times_as_fast(seconds: dict[str, dict[str, list[float]]], contender: str, what: str) -> tuple[float, float, float]:
    """Return how many times as fast a contender is as SB3: the median over seeds, the lowest and the highest."""
    ratios = np.array(seconds[SB3][what]) / np.array(seconds[contender][what])
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def markdown(record: dict[str, Any]) -> str:
    """Return a table of how many times as fast ``learn`` is as SB3's, and the whole process."""
    lines = [
        "| run on CartPole-v1 | SB3's `learn`, s | eager | first start | later start | later start, whole process |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, entry in record.items():
        seconds = entry["seconds"]
        base = float(np.median(seconds[SB3]["learn"]))
        ratios = [times_as_fast(seconds, c, "learn") for c in (EAGER, FIRST, LATER)]
        ratios.append(times_as_fast(seconds, LATER, "process"))
        lines.append(f"| {name} | {base:.1f} | {' | '.join('{:.1f} ({:.1f}–{:.1f})'.format(*r) for r in ratios)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.short_runs", description=__doc__.strip().split("\n")[0])
    names = list(CASES)
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="processes per contender (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="print the table and write no file")
    options = parser.parse_args(arguments)
    command = f"python -m benchmarks.speed.short_runs {' '.join(arguments)}".strip()
    measure_entries(
        names, options.cases, lambda name: measure(CASES[name], options.seeds), markdown, command, FILE, options.dry
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
