"""
Time PPO on several processes, with environments whose steps take from 10 µs to 10 ms.

    python -m benchmarks.speed.scaling              # writes benchmarks/results/speed/scaling.json
    python -m benchmarks.speed.scaling --parallel gather --seconds 0.001 --dry

Environments that spin need a core each, so there are as many processes as cores. Environments that sleep stand for cores of
other machines, and run on up to 8 processes. Efficiency is the speed, divided by the number of processes and by the speed of
one. The model extrapolates to more processes from the measured parts of an iteration:

    T(W) = rest + steps · (environments / W) · cost + messages · (W − 1)

``rest`` is the part that does not shrink with W: the acting and the update of the first process. ``messages`` are the seconds
per iteration and further process that two processes need more than the two terms before say. It is optimistic in that it knows
nothing of the network, and pessimistic in that the messages of one step overlap. It is a model of ``gather`` alone: in the
other ways, acting shrinks with W. The runs of one case take turns.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import RESULTS
from benchmarks.provenance import ROOT
from benchmarks.speed.entries import measure_entries

FILE = RESULTS / "speed" / "scaling.json"
WORKER = Path(__file__).with_name("scaling_worker.py")
COSTS = (1e-5, 1e-4, 1e-3, 1e-2)  # seconds per step of an environment
WAYS = ("gather", "gather_rollouts", "all_reduce")
SPINNING, SLEEPING = (1, 2), (1, 2, 4, 8)  # numbers of processes
JOB = dict(n_envs=16, n_steps=32, batch_size=128, n_epochs=10, compile=True, iterations=4)
REPEATS = 3
MODELLED = (8, 16, 64)

Runs = dict[str, list[dict[str, float]]]


def run(job: dict[str, Any], size: int) -> dict[str, float]:
    """Run a job on several processes, and return what the first one has measured."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **common, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(job)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process of the run failed: {errors}")
    return json.loads(outputs[0][0].splitlines()[-1])


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Return a case's runs by number of processes, and what a model makes of their medians."""
    way, kind, cost = parts_of(name)
    job = {**JOB, "parallel": way, "spins": kind == "spinning", "seconds": cost}
    sizes = SPINNING if kind == "spinning" else SLEEPING
    runs: Runs = {str(size): [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            runs[str(size)].append(run(job, size))
    seconds = {size: median(x["iteration"] for x in of_size) for size, of_size in runs.items()}
    environments = JOB["n_steps"] * JOB["n_envs"] * cost
    return {
        "runs": runs,
        "seconds": seconds,
        "efficiency": {size: seconds["1"] / (int(size) * x) for size, x in seconds.items()},
        "bytes": {size: median(x["bytes"] for x in of_size) for size, of_size in runs.items()},
        "modelled_speedup": modelled(seconds["1"], seconds["2"], environments),
    }


def modelled(one: float, two: float, environments: float) -> dict[str, float]:
    """
    Extrapolate to more processes under ``gather``.

    :param one: seconds of an iteration in one process
    :param two: the same in two processes
    :param environments: of these, the seconds that environments take in one process
    :return: speed compared with one process, by number of processes
    """
    rest = max(one - environments, 0.0)
    messages = max(two - rest - environments / 2, 0.0)
    return {str(n): one / (rest + environments / n + messages * (n - 1)) for n in MODELLED}


def name_of(way: str, kind: str, cost: float) -> str:
    """Return the name of a case."""
    return f"{way}, {kind}, {cost:g} s"


def parts_of(name: str) -> tuple[str, str, float]:
    """Return what :func:`name_of` was given."""
    way, kind, cost = name.split(", ")
    return way, kind, float(cost.removesuffix(" s"))


CASES = [name_of(way, kind, cost) for way in WAYS for kind in ("spinning", "sleeping") for cost in COSTS]


def markdown(record: dict[str, Any]) -> str:
    """Return a table of efficiencies, bytes and extrapolated speeds, by case."""
    more = " | ".join(f"{n} processes, modelled" for n in MODELLED)
    lines = [f"| case | seconds, 1 process | efficiency with 2 | 4 | 8 | bytes, 2 processes | {more} |"]
    lines.append(f"|---|{'--:|' * (5 + len(MODELLED))}")
    for name, entry in record.items():
        measured = entry["seconds"]
        efficiency = [f"{100 * measured['efficiency'][n]:.0f} %" if n in measured["efficiency"] else "" for n in "248"]
        speeds = [f"{x:.1f} ×" if name.startswith("gather,") else "" for x in measured["modelled_speedup"].values()]
        cells = [f"{measured['seconds']['1']:.2f}", *efficiency, f"{measured['bytes']['2']:,.0f}", *speeds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.scaling", description=__doc__.strip().split("\n")[0])
    parser.add_argument("--parallel", nargs="+", choices=WAYS, default=WAYS, help="default: all")
    parser.add_argument("--seconds", nargs="+", type=float, choices=COSTS, default=COSTS, help="cost of a step (default: all)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs per case (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=FILE, help="default: benchmarks/results/speed/scaling.json")
    parser.add_argument("--dry", action="store_true", help="print the table and write no file")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    command = f"python -m benchmarks.speed.scaling {' '.join(arguments)}".strip()
    chosen = [case for case in CASES if parts_of(case)[0] in options.parallel and parts_of(case)[2] in options.seconds]
    measure_entries(CASES, chosen, lambda name: measure(name, options.repeats), markdown, command, options.file, options.dry)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
