"""
What A3C's workers gain, and what their asynchrony costs: whole runs on CartPole-v1 beside A2C, each in a fresh process.

    python -m benchmarks.speed.a3c                               # writes benchmarks/results/speed/a3c.json
    python -m benchmarks.speed.a3c --cases claim
    python -m benchmarks.speed.a3c --cases a3c-2 --seeds 100 --dry

Everything runs uncompiled with one torch thread per process. A worker has 8 environments. A2C runs with as many environments
as one worker, which makes as many updates per step from batches as large, and with as many as all workers together. Runs take
turns, one at a time. The file keeps the cases that are not measured again.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.speed.entries import measure_entries
from benchmarks.speed.fresh_process import run_fresh

FILE = RESULTS / "speed" / "a3c.json"
WORKER = Path(__file__).with_name("a3c_worker.py")
TIMESTEPS = 300_000
# Fixed before the first run, which is the only one; settings were chosen on seeds 100 to 999.
CLAIM_SEEDS, SEEDS = tuple(range(1200, 1205)), tuple(range(1205, 1210))


@dataclass(frozen=True)
class Case:
    """
    An algorithm that all seeds run.

    :param name: name of the case
    :param n_envs: environments per worker
    :param n_workers: workers of A3C; ``None``: A2C
    :param seeds: seeds of the runs
    """

    name: str
    n_envs: int = 8
    n_workers: int | None = None
    seeds: tuple[int, ...] = SEEDS


# The claim: two workers reach 475 on every seed. Its runs need no quiet machine; the others do.
_CASES = (
    Case("claim", n_workers=2, seeds=CLAIM_SEEDS),
    *(Case(f"a2c-{n}-envs", n_envs=n) for n in (8, 16, 32)),
    *(Case(f"a3c-{w}", n_workers=w) for w in (1, 2, 4)),
)
CASES = {case.name: case for case in _CASES}


def measure(case: Case, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """
    Return what each run measured; see ``a3c_worker.py``.

    :param case: what to run
    :param seeds: instead of the case's
    """
    runs = []
    with tempfile.TemporaryDirectory(prefix="sb3-pgx-a3c-") as cache:
        for seed in seeds or case.seeds:
            job = {"n_envs": case.n_envs, "n_workers": case.n_workers, "seed": seed, "timesteps": TIMESTEPS}
            measured, _ = run_fresh(WORKER, job, Path(cache) / "graphs", Path(cache) / "compiler")
            runs.append({"seed": seed, **measured})
    return runs


def markdown(record: dict[str, Any]) -> str:
    """Return a table of throughput and learning."""
    lines = [
        "| case | envs | steps/s | start, s | updates | staleness | stale | steps to 475 | final return of each seed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, entry in record.items():
        case, runs = CASES[name], entry["seconds"]

        def median(key: str, runs: list[dict[str, Any]] = runs) -> float:
            return float(np.median([run[key] for run in runs]))

        reached = [run["steps_to_475"] for run in runs if run["steps_to_475"] is not None]
        steps = f"{np.median(reached):,.0f}" if len(reached) == len(runs) else f"{len(reached)} of {len(runs)} seeds"
        cells = [
            name,
            str(case.n_envs * (case.n_workers or 1)),
            f"{median('frames_per_second'):,.0f}",
            f"{median('start_seconds'):.1f}",
            f"{median('n_updates'):,.0f}",
            f"{median('staleness'):.2f}",
            f"{median('stale'):.0%}",
            steps,
            ", ".join(f"{run['final_return']:.0f}" for run in runs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.a3c", description=__doc__.strip().split("\n")[0])
    names = list(CASES)
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", nargs="+", type=int, help="other seeds than the planned ones")
    parser.add_argument("--dry", action="store_true", help="print the table and write no file")
    options = parser.parse_args(arguments)
    command = f"python -m benchmarks.speed.a3c {' '.join(arguments)}".strip()
    print("\n".join(markdown({}).splitlines()))
    measure_entries(
        names, options.cases, lambda name: measure(CASES[name], options.seeds), markdown, command, FILE, options.dry
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
