"""Measure entries of a record one by one. Each says where it comes from; those that are not measured again are kept."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance
from benchmarks.speed.timed_code import hash_of_all
from sb3_pgx.experiments.pool import write_json


def measure_entries(
    names: Sequence[str],
    chosen: Collection[str],
    measure: Callable[[str], Any],
    markdown: Callable[[dict[str, Any]], str],
    command: str,
    file: Path,
    dry: bool,
) -> None:
    """
    Measure entries, print each as it comes, and write the record after each.

    :param names: all entries, in their order
    :param chosen: those to measure
    :param measure: returns the seconds of an entry
    :param markdown: returns a table of some entries, whose last line is printed
    :param command: which the record names
    :param file: of the record
    :param dry: write nothing
    """
    source = {"command": command, **provenance(), "code_hash": hash_of_all()}
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in names:
        if name in chosen:
            record[name] = {**source, "seconds": measure(name)}
            print(markdown({name: record[name]}).splitlines()[-1], flush=True)
            if not dry:
                write_json(file, {name: record[name] for name in names if name in record})
