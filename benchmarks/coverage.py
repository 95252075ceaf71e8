"""
Measures how often the intervals of reports cover the true value: ``python -m benchmarks.coverage --write`` (5 minutes).

Each row draws 10,000 samples of n seeds from a known distribution and computes from each the 95 % interval that reports show
(``sb3_pgx/experiments/small_samples.py``) and, for one algorithm, the percentile bootstrap interval that it widens. Without
``--write``, the table of the last measurement is printed as Markdown.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from sb3_pgx.experiments.aggregate_metrics import mean_over_environments, pooled_interquartile_mean
from sb3_pgx.experiments.pool import write_json
from sb3_pgx.experiments.small_samples import improvement_interval, mean_difference, stratified_seed_interval, widening
from sb3_pgx.experiments.statistics import Floats

FILE = RESULTS / "intervals" / "coverage.json"
DRAWS, RESAMPLES, BLOCK = 10_000, 499, 500
SIZES = (3, 5, 10, 20)
EXACT = 2_000_000  # draws from which the true value is computed

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _bimodal(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return np.where(rng.random(size) < 0.7, rng.normal(500, 10, size), rng.normal(100, 50, size))


def _capped(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return np.where(rng.random(size) < 0.8, 500.0, rng.uniform(9, 500, size))


# Returns of runs: by name, what they stand for and how they are drawn.
DISTRIBUTIONS: dict[str, tuple[str, Draw]] = {
    "normal": ("normal", lambda rng, size: rng.normal(0, 1, size)),
    "uniform": ("uniform", lambda rng, size: rng.uniform(0, 1, size)),
    "lognormal": ("lognormal, σ = 1: a long upper tail", lambda rng, size: rng.lognormal(0, 1, size)),
    "heavy-tailed": ("Student's t with 3 degrees of freedom", lambda rng, size: rng.standard_t(3, size)),
    "bimodal": ("70 % near 500, 30 % near 100: runs that fail", _bimodal),
    "capped": ("80 % exactly 500, others uniform below: an environment with a largest return", _capped),
}


def measure(name: str, n: int, statistic: str) -> dict[str, Any]:
    """
    Return the coverage of the intervals of a statistic.

    :param name: a distribution
    :param n: number of seeds, of each algorithm if there are two
    :param statistic: ``mean``, ``interquartile mean``, ``difference of means`` or ``probability of improvement``
    """
    draw = DISTRIBUTIONS[name][1]
    rng = np.random.default_rng([n, [*DISTRIBUTIONS].index(name)])
    truth = _truth(draw, n, statistic)
    covered, narrow, shown = 0, 0, 0
    for _ in range(DRAWS // BLOCK):
        if statistic in PAIRS:
            groups = [np.moveaxis(draw(rng, (n, 1, BLOCK)), -1, 0) for _ in range(2)]
            low, high = np.array([PAIRS[statistic](a, b) for a, b in zip(*groups, strict=True)]).T
        else:
            sample = draw(rng, (n, 1, BLOCK))
            low, high = stratified_seed_interval([sample], STATISTICS[statistic], resamples=RESAMPLES)
            center, factor = STATISTICS[statistic](np.moveaxis(sample, -1, 0)), widening([sample[:, 0]])
            ends = center - (center - low) / factor, center + (high - center) / factor
            narrow += int(((ends[0] <= truth) & (truth <= ends[1])).sum())
        has_width = low < high
        shown += int(has_width.sum())
        covered += int((has_width & (low <= truth) & (truth <= high)).sum())
    return {
        "distribution": name,
        "statistic": statistic,
        "seeds": n,
        "report": round(covered / shown, 4),
        "percentile bootstrap": None if statistic in PAIRS else round(narrow / DRAWS, 4),
        "no interval": round(1 - shown / DRAWS, 4),
    }


def _difference(first: Floats, second: Floats) -> tuple[float, float]:
    low, high = mean_difference(first, second).interval(0.05)
    return (low, high) if np.isfinite(low) else (np.nan, np.nan)


STATISTICS: dict[str, Callable[..., Floats]] = {
    "mean": mean_over_environments,
    "interquartile mean": pooled_interquartile_mean,
}
PAIRS = {"difference of means": _difference, "probability of improvement": improvement_interval}
MIDDLE = ("normal", "lognormal", "bimodal")  # of the interquartile mean, which takes most of the time, and not for 20 seeds


def _truth(draw: Draw, n: int, statistic: str) -> float:
    """Return the statistic's expectation. Both algorithms of a pair have the same distribution."""
    if statistic in PAIRS:
        return 0.5 if statistic == "probability of improvement" else 0.0
    samples = draw(np.random.default_rng(0), (EXACT // n, n, 1))
    return float(STATISTICS[statistic](samples).mean())


def measure_all(statistics: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per distribution, statistic and number of seeds. The interquartile mean of 3 seeds is the mean."""
    rows = []
    for statistic in statistics:
        is_middle = statistic == "interquartile mean"
        for name in MIDDLE if is_middle else DISTRIBUTIONS:
            for n in SIZES[1:3] if is_middle else SIZES:
                rows.append(measure(name, n, statistic))
                print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown: coverage of the reports' intervals, that of the percentile bootstrap in brackets."""
    lines = [f"| interval of | returns | {' | '.join(f'{n} seeds' for n in SIZES)} |", "|---|---|" + "---|" * len(SIZES)]
    for statistic, name in dict.fromkeys((row["statistic"], row["distribution"]) for row in rows):
        found = {row["seeds"]: row for row in rows if (row["statistic"], row["distribution"]) == (statistic, name)}
        lines.append(f"| {statistic} | {name} | {' | '.join(_cell(found.get(n)) for n in SIZES)} |")
    return "\n".join(lines)


def markdown(content: dict[str, Any]) -> str:
    """
    Return the table, and what the distributions are.

    :param content: of the file that ``--write`` writes
    """
    kinds = "\n".join(f"- {name}: {meaning}" for name, (meaning, _) in DISTRIBUTIONS.items() if meaning != name)
    return f"{table(content['rows'])}\n\n{kinds}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    none = f"; none in {100 * row['no interval']:.0f} %" if row["no interval"] >= 0.005 else ""
    narrow = row["percentile bootstrap"]
    return f"{100 * row['report']:.1f} %{'' if narrow is None else f' ({100 * narrow:.1f} %)'}{none}"


def main() -> None:
    """Measure with ``--write``; print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"measure, and write {FILE.relative_to(RESULTS.parent.parent)}")
    parser.add_argument("--only", choices=[*STATISTICS, *PAIRS], help="measure one statistic and keep the rows of the others")
    arguments = parser.parse_args()
    if arguments.write:
        source, only = provenance(), arguments.only
        earlier = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if only else []
        rows = [row for row in earlier if row["statistic"] != only]
        rows += measure_all([only] if only else [*STATISTICS, *PAIRS])
        FILE.parent.mkdir(exist_ok=True)
        write_json(FILE, {"draws": DRAWS, "resamples": RESAMPLES, **source, "rows": rows})
    print(markdown(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
