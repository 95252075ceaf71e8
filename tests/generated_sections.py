"""
The generated sections of README and docs. ``python tests/generated_sections.py`` rewrites them, and with names, such as
``configs speed``, those sections alone. A section stands between the marks ``<!-- name -->`` and ``<!-- end name -->``, in one
file. What trains is tried anew; the figures of claims and of the benchmark are those of ``benchmarks/results/``.
"""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch as th
from claim_tables import (
    claims_table,
    mujoco_table,
    of_algorithm,
    results,
    variance_sentence,
)
from support.capabilities import table
from support.logged_metrics import logged_by
from support.logged_metrics import table as logged_table
from support.planted_faults import FAULTS

from benchmarks import coverage, curves, soft_q_learning
from benchmarks.speed import a3c, scaling, short_runs, startup, summary
from benchmarks.speed.report import markdown
from benchmarks.speed.results import read_results
from sb3_pgx.diagnostics import METRICS
from sb3_pgx.diagnostics.metrics import HEALTH_METRICS, UPDATE_KEYS
from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "zoo_configs"
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
CLAIMS_PAGE = "../reference/results.md"


def section(name: str) -> str:
    """What stands between the marks of ``name``."""
    found = [match[1] for path in PAGES for match in _marked(name).finditer(path.read_text(encoding="utf-8"))]
    assert len(found) == 1, f"README.md and docs/ have {len(found)} sections {name} instead of one"
    return found[0]


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {re.escape(name)} -->\n(.*?)\n?<!-- end {re.escape(name)} -->", re.DOTALL)


def published_capabilities() -> dict[tuple[str, str], bool]:
    """The published table of capabilities, by algorithm and cell."""
    header, _, *rows = (line.strip("| ").split(" | ") for line in section("capabilities").splitlines())
    names = {f"`{cls.__name__}`": name for name, cls in ALGORITHMS.items()}
    return {(names[c], row[0]): mark.strip(" |") == "✓" for row in rows for c, mark in zip(header, row[1:], strict=True)}


def measured() -> set[tuple[str, str]]:
    """Algorithms and environments that a claim's sentence names."""
    # The hyperparameter files name an environment without the module that registers it. An algorithm with hyperparameters in
    # brackets is another one than the published one.
    published = [re.sub(r"\S+\[(\[.*?\]|[^]])*\]", "", record["claim"].replace("sb3_pgx.tasks:", "")) for record in results()]
    words = [set(re.findall(r"[\w:/-]+", claim)) for claim in published]
    return {
        (algorithm, env_id)
        for algorithm in EVERY_ALGORITHM
        for env_id in comments(algorithm)
        for w in words
        if {algorithm, env_id} <= w and "tuned" not in w  # what a search found is not what is published
    }


def comments(algorithm: str) -> dict[str, str]:
    """What the lines right above each entry of an algorithm's hyperparameter file say."""
    file = CONFIGS / f"{algorithm}.yml"
    assert file.is_file(), f"{algorithm} has no hyperparameters: write zoo_configs/{file.name}"
    text = file.read_text(encoding="utf-8")
    return {match[2]: match[1] for match in re.finditer(r"((?:^#.*\n)*)^([\w/-]+):", text, re.MULTILINE)}


def configs_table() -> str:
    """What there are hyperparameters for."""
    known = {algorithm: comments(algorithm) for algorithm in EVERY_ALGORITHM}
    env_ids = list(dict.fromkeys(env_id for entries in known.values() for env_id in entries))
    env_ids.sort(key=lambda env_id: env_id in ("atari", "default"))  # these last
    cells = {env_id: [status(a, env_id, known[a].get(env_id)) for a in known] for env_id in env_ids}
    rows = [f"| {env_id} | {' | '.join(row)} |" for env_id, row in cells.items()]
    return "\n".join([f"| | {' | '.join(f'`{a}`' for a in known)} |", f"|---|{':-:|' * len(known)}", *rows])


def status(algorithm: str, env_id: str, comment: str | None) -> str:
    """Of one entry; ``comment`` is None where there is none."""
    if comment is None:
        return ""
    if (algorithm, env_id) in measured():
        return f"[✓]({CLAIMS_PAGE})"
    return "·" if "not measured" in comment else "tried"


def speed_tables(file: Path = summary.FILE) -> str:
    """What ``python -m benchmarks.speed --write`` measured last; as it stands if it has not."""
    return markdown(read_results(file)) if file.is_file() else section("speed")


def record_table(benchmark: Any) -> str:
    """What the command of a module of ``benchmarks`` measured last."""
    return str(benchmark.markdown(json.loads(benchmark.FILE.read_text(encoding="utf-8"))))


def metrics_table() -> str:
    """What ``DiagnosticsCallback`` logs, and what ``HealthCallback`` logs in addition."""
    rows = [f"| `{name}` | {meaning.replace('|', '&#124;')} |" for name, meaning in {**METRICS, **UPDATE_KEYS}.items()]
    of_health = [f"| `{name}` | {meaning} |" for name, meaning in HEALTH_METRICS.items()]
    header = "| `HealthCallback` alone | meaning |"
    return "\n".join(["| `diagnostics/…` | meaning |", "|---|---|", *rows, "", header, "|---|---|", *of_health])


def faults_table() -> str:
    """The faults that are planted in the tests, and which rule has to find each, how soon."""
    rows = [
        f"| {name} | {fault.rule} | {fault.within} update{'s' if fault.within > 1 else ''} |" for name, fault in FAULTS.items()
    ]
    return "\n".join(["| fault | rule that fires | within |", "|---|---|---|", *rows])


def algorithm_logs(name: str) -> str:
    """The keys of ``train/`` that an algorithm logs."""
    keys = [key.removeprefix("train/") for key in sorted(logged_by(name)) if key.startswith("train/")]
    return f"`train/` …: {', '.join(f'`{key}`' for key in keys)}. [What they mean](../reference/metrics.md)."


def algorithm_results(name: str) -> str:
    """The claims about an algorithm and its speed, as far as they were measured."""
    return "\n\n".join(filter(None, [of_algorithm(name), summary.markdown_of(name)])) or "Nothing is claimed yet."


GENERATED: dict[str, Callable[[], str]] = {
    "capabilities": table,
    "claims": claims_table,
    "configs": configs_table,
    "coverage": partial(record_table, coverage),
    "faults": faults_table,
    "logged": logged_table,
    "metrics": metrics_table,
    "mujoco": mujoco_table,
    "scaling": partial(record_table, scaling),
    "short runs": partial(record_table, short_runs),
    "speed": speed_tables,
    "speed in short": summary.markdown,
    "startup": partial(record_table, startup),
    "variance": variance_sentence,
    "workers of a3c": partial(record_table, a3c),
    **{f"curve of {name}": partial(curves.markdown, name) for name in curves.recorded()},
    **{f"{what} of soft_q_learning": partial(soft_q_learning.markdown, what) for what in soft_q_learning.recorded()},
    **{
        f"first {what} of soft_q_learning": partial(soft_q_learning.markdown, what, soft_q_learning.FIRST)
        for what in soft_q_learning.recorded(soft_q_learning.FIRST)
    },
    **{f"results of {name}": partial(algorithm_results, name) for name in ALGORITHMS},
    **{f"metrics of {name}": partial(algorithm_logs, name) for name in ALGORITHMS},
}


def main(names: list[str]) -> None:
    """
    Rewrite generated sections in their files.

    :param names: which ones; empty: all
    """
    th.set_num_threads(1)
    new = {name: f"<!-- {name} -->\n{GENERATED[name]()}\n<!-- end {name} -->" for name in names or GENERATED}
    for path in PAGES:
        text = before = path.read_text(encoding="utf-8")
        for name, block in new.items():
            text = _marked(name).sub(lambda _, b=block: b, text)
        if text != before:
            path.write_text(text, encoding="utf-8")
            print(f"rewritten: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
