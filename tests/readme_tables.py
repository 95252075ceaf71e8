"""
The README's tables, from what they are about: ``python tests/readme_tables.py`` rewrites them. What trains is tried anew; the
claims' and the benchmark's figures are those of ``benchmarks/results/``.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch as th
from support.capabilities import table
from support.logged_metrics import table as logged_table
from support.planted_faults import FAULTS

from benchmarks.claims.check import MUJOCO
from benchmarks.speed.report import markdown
from benchmarks.speed.results import read_results
from sb3_pgx.diagnostics import METRICS
from sb3_pgx.experiments.statistics import bootstrap_interval, interquartile_mean
from sb3_pgx.registry import ALGORITHMS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONFIGS = ROOT / "zoo_configs"
BENCH = CONFIGS / "results" / "bench.json"


def section(name: str) -> str:
    """What stands in the README between the marks of ``name``."""
    match = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- end {name} -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert match, f"README.md has no section {name}"
    return match[1]


def published_capabilities() -> dict[tuple[str, str], bool]:
    """The README's table of capabilities, by algorithm and cell."""
    rows = [line.strip("| ").split(" | ") for line in section("capabilities").splitlines()[2:]]
    return {(a, row[0]): mark.strip(" |") == "✓" for row in rows for a, mark in zip(ALGORITHMS, row[1:], strict=True)}


def results() -> list[dict[str, Any]]:
    """Every measured claim."""
    files = sorted(set((CONFIGS / "results").glob("*.json")) - {BENCH})
    return [record for file in files for record in json.loads(file.read_text(encoding="utf-8")).values()]


def claims_table() -> str:
    """The claims on returns with what was measured."""
    rows = [row for record in results() for row in claim_rows(record)]
    return "\n".join(["| claim | measured | 95 % interval | every seed |", "|---|---|---|---|", *rows])


def claim_rows(record: dict[str, Any]) -> list[str]:
    """One row, or one for each number by which two algorithms are compared; none for a claim that is not about returns."""
    claim = record["claim"]
    if "interquartile_mean" in record:
        low, high = record["interval_95"]
        seeds = per_seed(record["mean_return_per_seed"])
        return [f"| {claim} | {record['interquartile_mean']:.1f} | {low:.1f} to {high:.1f} | {seeds} |"]
    if "ratio" in record:
        low, high = record["interval_95"]
        seeds = "; ".join(
            f"{label} on {env_id}: {per_seed(runs['mean_return_per_seed'])}"
            for env_id, by_label in record["runs"].items()
            for label, runs in by_label.items()
        )
        return [f"| {claim} | {record['ratio']:.3f} | {low:.3f} to {high:.3f} | {seeds} |"]
    if "alarms_in_100_updates" in record:
        counts = "; ".join(
            f"{env_id}: {sum(env['alarms'].values())} in {env['updates']}" for env_id, env in record["environments"].items()
        )
        return [f"| {claim} | {record['alarms_in_100_updates']:.2f} in 100 | | {counts} |"]
    rows = []
    for name, d in record.get("differences", {}).items():
        low, high = d["interval_95"]
        seeds = "; ".join(f"{label}: {per_seed(values)}" for label, values in d["per_seed"].items())
        interval = f"{low:+.1f} to {high:+.1f} ({d['width']:.1f} wide)"
        rows.append(f"| {claim}: difference in {name} | {d['difference']:+.1f} | {interval} | {seeds} |")
    return rows


def mujoco_table() -> str:
    """What claims measured there, of every algorithm and peer."""
    seeds: dict[tuple[str, str], dict[str, float]] = {}
    for record in results():
        for cell, runs in runs_of(record).items():
            if cell[1] in MUJOCO and record["timesteps"] == 1_000_000 and len(runs) > len(seeds.get(cell, ())):
                seeds[cell] = runs

    def told(cell: tuple[str, str]) -> str:
        if cell not in seeds:
            return ""
        values = list(seeds[cell].values())
        low, high = bootstrap_interval(values, interquartile_mean)
        return f"{interquartile_mean(values):.0f} [{low:.0f}, {high:.0f}]{f' ({len(values)})' if len(values) != 5 else ''}"

    labels = sorted({label for label, _ in seeds}, key=lambda label: (":" in label, label))  # peers after ours
    rows = [f"| `{label}` | {' | '.join(told((label, env_id)) for env_id in MUJOCO)} |" for label in labels]
    return "\n".join([f"| | {' | '.join(MUJOCO)} |", f"|---|{'--:|' * len(MUJOCO)}", *rows])


def runs_of(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """The return of each seed, by algorithm and environment, of a claim on one algorithm or on several."""
    alone = re.match(r"(\w+) reaches \S+ on (\S+) within", record["claim"])
    beside = re.match(r"\w+ learns as \S+ does on (\S+)", record["claim"])
    if alone:
        return {(alone[1], alone[2]): record["mean_return_per_seed"]}
    if beside:
        return {(label, beside[1]): runs["mean_return_per_seed"] for label, runs in record["runs"].items()}
    if "ratio" in record:
        by_env = record["runs"].items()
        return {(a, env_id): runs["mean_return_per_seed"] for env_id, of_env in by_env for a, runs in of_env.items()}
    return {}


def measured() -> set[tuple[str, str]]:
    """Algorithms and environments that a claim's sentence names."""
    words = [set(re.findall(r"[\w:/-]+", record["claim"])) for record in results()]
    return {
        (algorithm, env_id)
        for algorithm in ALGORITHMS
        for env_id in comments(algorithm)
        for w in words
        if {algorithm, env_id} <= w and "tuned" not in w  # what a search found is not what is published
    }


def comments(algorithm: str) -> dict[str, str]:
    """What the lines right above each entry of an algorithm's hyperparameter file say."""
    text = (CONFIGS / f"{algorithm}.yml").read_text(encoding="utf-8")
    return {match[2]: match[1] for match in re.finditer(r"((?:^#.*\n)*)^([\w/-]+):", text, re.MULTILINE)}


def configs_table() -> str:
    """What there are hyperparameters for."""
    known = {algorithm: comments(algorithm) for algorithm in ALGORITHMS}
    env_ids = list(dict.fromkeys(env_id for entries in known.values() for env_id in entries))
    env_ids.sort(key=lambda env_id: env_id in ("atari", "default"))  # these last
    rows = [f"| {env_id} | {' | '.join(status(a, env_id, known[a].get(env_id)) for a in ALGORITHMS)} |" for env_id in env_ids]
    return "\n".join([f"| | {' | '.join(f'`{a}`' for a in ALGORITHMS)} |", f"|---|{':-:|' * len(ALGORITHMS)}", *rows])


def status(algorithm: str, env_id: str, comment: str | None) -> str:
    """Of one entry; ``comment`` is None where there is none."""
    if comment is None:
        return ""
    if (algorithm, env_id) in measured():
        return "[✓](#what-is-claimed)"
    return "·" if "not measured" in comment else "tried"


def per_seed(values: dict[str, float]) -> str:
    """The value of each seed."""
    return ", ".join(f"{value:.1f}" for value in values.values())


def variance_sentence() -> str:
    """The measured variance of the gradient with each baseline."""
    (record,) = [r for r in results() if "variance_relative_to_no_baseline" in r]
    figures = [
        f"{name} {100 * v['mean']:.0f} % ({100 * v['interval_95'][0]:.0f} to {100 * v['interval_95'][1]:.0f})"
        for name, v in record["variance_relative_to_no_baseline"].items()
    ]
    return (
        f"Measured on CartPole-v1 after {record['timesteps_before']:,} steps with {record['episodes_a_gradient']} episodes a\n"
        f"gradient, {len(record['seeds'])} seeds, as a share of the variance without a baseline (with 95 % interval):\n"
        + ",\n".join(figures)
        + "."
    )


def speed_tables() -> str:
    """What ``python -m benchmarks.speed --write`` measured last; as it stands if it has not."""
    return markdown(read_results(BENCH)) if BENCH.is_file() else section("speed")


def metrics_table() -> str:
    """What ``DiagnosticsCallback`` logs."""
    rows = [f"| `{name}` | {meaning.replace('|', '&#124;')} |" for name, meaning in METRICS.items()]
    return "\n".join(["| `diagnostics/…` | meaning |", "|---|---|", *rows])


def faults_table() -> str:
    """The faults that are planted in the tests, and which rule has to find each, how soon."""
    rows = [
        f"| {name} | {fault.rule} | {fault.within} update{'s' if fault.within > 1 else ''} |" for name, fault in FAULTS.items()
    ]
    return "\n".join(["| fault | rule that fires | within |", "|---|---|---|", *rows])


GENERATED = {
    "capabilities": table,
    "claims": claims_table,
    "configs": configs_table,
    "faults": faults_table,
    "logged": logged_table,
    "metrics": metrics_table,
    "mujoco": mujoco_table,
    "speed": speed_tables,
    "variance": variance_sentence,
}

if __name__ == "__main__":
    th.set_num_threads(1)
    text = README.read_text(encoding="utf-8")
    for name, generate in GENERATED.items():
        block = f"<!-- {name} -->\n{generate()}\n<!-- end {name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
        print(block)
    README.write_text(text, encoding="utf-8")
