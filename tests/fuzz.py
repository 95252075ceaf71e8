"""
Tries every odd value of every argument and draws random uses of the algorithms (:mod:`drawing`), and writes what became of
them: ``python tests/fuzz.py [draws] [seed]``.

A draw that neither trains nor is refused as it should be ends the run with the smallest such draw.
"""

import json
import platform
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import gymnasium
import hypothesis
import numpy
import stable_baselines3
import torch
from hypothesis import HealthCheck, given, seed, settings
from support.capabilities import BOX, QUICK
from support.random_uses import ODD, Draw, arguments_of, draws, outcome

from sb3_pgx.engine.compiler import using_backend
from sb3_pgx.registry import ALGORITHMS

SUMMARY = Path(__file__).with_name("fuzz.json")
VERSIONS = (gymnasium, hypothesis, numpy, stable_baselines3, torch)


def fuzz(n_draws: int, number: int) -> dict[str, dict[str, int]]:
    """How often each algorithm came to each outcome."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    each = -(-n_draws // len(ALGORITHMS))
    for name in ALGORITHMS:

        @seed(number)
        @settings(max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(draw=draws((name,)))
        def use(draw):
            counts[draw.name][outcome(draw)] += 1

        use()
        print(name, dict(counts[name]), flush=True)
    return {name: dict(sorted(outcomes.items())) for name, outcomes in counts.items()}


def sweep() -> dict[str, int]:
    """What becomes of every odd value of every argument of every algorithm, one at a time."""
    counts: Counter[str] = Counter()
    for name in ALGORITHMS:
        for argument in arguments_of(name):
            for value in ODD if argument != "tensorboard_log" else ():  # a string is a folder
                use = Draw(name, "MlpPolicy", BOX, BOX, 1, False, 1.0, {**QUICK[name], argument: value})
                try:
                    counts[outcome(use)] += 1
                except AssertionError as error:
                    raise AssertionError(f"{name}: {argument}={value!r}") from error
    return dict(sorted(counts.items()))


def commit() -> str:
    """The checkout's, marked if files have been changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=SUMMARY.parent, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    n_draws, number = (int(x) for x in (*sys.argv[1:], *("2400", "0")[len(sys.argv) - 1 :]))
    torch.set_num_threads(1)
    with using_backend(lambda graph, examples: graph):  # graphs run as they were traced
        single, drawn = sweep(), fuzz(n_draws, number)
    summary = {
        "command": f"python tests/fuzz.py {n_draws} {number}",
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in VERSIONS},
        "seed": number,
        "odd values, one at a time": single,
        "outcomes": drawn,
    }
    summary["draws"] = sum(sum(outcomes.values()) for outcomes in summary["outcomes"].values())
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{summary['draws']} draws; the summary is in {SUMMARY}")
