"""
Measure what each special mechanism of the engine gains: train with it and without it, in turns.

    python -m benchmarks.speed.removals            # writes benchmarks/results/removals/<commit>.json
    python -m benchmarks.speed.removals --cases ppo-cartpole --rounds 4 --dry

A mechanism stays in the code if some case takes at least 5 % more time without it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.speed.cases import Case, select_cases
from benchmarks.speed.measure import Measurement, Process
from benchmarks.speed.timed_code import hash_of_all
from sb3_pgx.experiments.pool import write_json

ROUNDS = 16


def without_rational_tanh() -> None:
    """Layers' tanh stays that of the compiler's vector library."""
    from sb3_pgx.engine import graph_rewrites

    graph_rewrites._is_product = lambda node: False


def without_bias_sums() -> None:
    """Bias and product of a layer stay one call of addmm."""
    _leave_out("_ADDMM")


def without_outer_products() -> None:
    """Products of one column and one row stay calls of mm."""
    _leave_out("_OUTER")


def without_small_products() -> None:
    """Small matrix products stay calls of mm."""
    from sb3_pgx.engine import graph_rewrites

    graph_rewrites.SMALL_PRODUCT = (0, 0, 0)


def without_evaluation_graph() -> None:
    """Rollouts are evaluated eagerly."""
    from sb3_pgx.stages.estimate import Estimating

    Estimating._has_graph = lambda self, rollout: False  # type: ignore[method-assign]


def _leave_out(name: str) -> None:
    from sb3_pgx.engine import graph_rewrites

    pattern, replace = getattr(graph_rewrites, name), graph_rewrites._replace
    graph_rewrites._replace = lambda node, function: None if function is pattern else replace(node, function)


COMPILED = (without_rational_tanh, without_bias_sums, without_outer_products, without_small_products, without_evaluation_graph)


def removals_of(case: Case) -> tuple[Callable[[], None], ...]:
    """Return the removals that can matter to a case."""
    return COMPILED if case.compiles else ()


def measure_removals(case: Case, rounds: int) -> dict[str, Any]:
    """
    Return by which factor training slows down without each mechanism: the median over rounds, and its 95 % interval.

    :param case: case of the benchmark; only this package's algorithm is trained
    :param rounds: number of rounds; each variant trains once per round
    """
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb3-pgx-removals-")))
        variants = {
            removal.__name__ if removal else "as it is": stack.enter_context(
                Process(case, case.algorithm, cache / (removal.__name__ if removal else "as-it-is"), removal)
            )
            for removal in (None, *removals_of(case))
        }
        for process in variants.values():
            process.call(Measurement.warm_up)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(rounds):
            names = list(variants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds[name].append(variants[name].call(Measurement.round, case.timesteps).seconds)
    base = np.array(seconds.pop("as it is"))
    return {name.replace("_", " "): _ratio(np.array(values) / base) for name, values in seconds.items()}


def _ratio(ratios: np.ndarray) -> dict[str, Any]:
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"median": round(float(np.median(ratios)), 3), "interval": [round(float(low), 3), round(float(high), 3)]}


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.removals", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", help="cases of the benchmark (default: all that train this package alone)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds per variant (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="print the ratios and write no file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    source = {**provenance(), "code_hash": hash_of_all()}
    for case in select_cases(options.cases):
        if ":" in case.algorithm:
            continue
        ratios = measure_removals(case, options.rounds)
        for name, ratio in ratios.items():
            print(f"{case.name}: {name} {ratio['median']} {ratio['interval']}", flush=True)
        results[case.name] = ratios
        if not options.dry:
            command = f"python -m benchmarks.speed.removals {' '.join(arguments)}".strip()
            file = RESULTS / "removals" / f"{source['commit'][:7]}.json"
            write_json(file, {"command": command, "provenance": source, "cases": results})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
