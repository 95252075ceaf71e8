"""The folder of a comparison: what of it may go on there, and what would mix with other results."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sb3_pgx.experiments.pool import json_round_trip
from sb3_pgx.experiments.runs import RunSpec

RECORD = "comparison.json"
SHARED = ("timesteps", "curve_points", "curve_episodes", "eval_episodes")


def run_path(folder: Path, spec: RunSpec) -> Path:
    """Where a run is kept: ``runs/<environment>/<algorithm>-seed<k>.json``."""
    return folder / "runs" / folder_name(spec.env_id) / f"{spec.name}.json"


def folder_name(env_id: str) -> str:
    """An environment's name without what file systems take for something else."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", env_id)


def comparison_record(specs: Sequence[RunSpec], versions: Mapping[str, str]) -> dict[str, Any]:
    """What decides the outcome of a comparison's runs, as JSON has it."""
    configs: dict[str, dict[str, Any]] = {}
    for spec in specs:
        configs.setdefault(spec.env_id, {})[spec.label] = asdict(spec.config)
    record = {
        **{name: getattr(specs[0], name) for name in SHARED},
        "seeds": sorted({spec.seed for spec in specs}),
        "versions": versions,
        "configs": configs,
    }
    return json_round_trip(record)


def check_output(folder: Path, force: bool = False) -> None:
    """:raises FileExistsError: results would mix with what is in the folder already"""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not force):
        kind = "a file" if folder.is_file() else "not empty"
        remedy = "" if folder.is_file() else ", or use --force to replace results of the same names"
        raise FileExistsError(f"the output folder {folder} is {kind}; choose another one{remedy}")


def check_resumable(folder: Path, record: Mapping[str, Any], force: bool = False) -> None:
    """
    A comparison may go on in its folder, with further seeds, algorithms or environments, too.

    :param folder: for its results
    :param record: of :func:`comparison_record`
    :param force: whether to replace what is there
    :raises FileExistsError: the folder holds something else, or another comparison; says what differs
    """
    path = folder / RECORD
    if force or not path.is_file():
        return check_output(folder, force)
    try:
        difference = _difference(json.loads(path.read_text(encoding="utf-8")), record)
    except (ValueError, KeyError, TypeError, AttributeError):
        difference = f"{RECORD} there cannot be read"
    if difference:
        raise FileExistsError(
            f"the output folder {folder} holds another comparison ({difference}); choose another one, or use --force to "
            "replace results of the same names"
        )


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    for name in SHARED:
        if there[name] != here[name]:
            return f"{name} is {there[name]} there and {here[name]} here"
    for name in {**there["versions"], **here["versions"]}:
        pair = (there["versions"].get(name), here["versions"].get(name))
        if None not in pair and pair[0] != pair[1]:
            return f"{name} was {pair[0]} there and is {pair[1]} here"
    if set(there["seeds"]) - set(here["seeds"]):
        return f"of seeds {there['seeds']}, here {here['seeds']}"
    for env_id, by_label in there["configs"].items():
        for label, config in by_label.items():
            asked = here["configs"].get(env_id, {}).get(label)
            if asked is None:
                return f"it has {label} on {env_id}, which is not asked for here"
            if asked != config:
                return f"settings of {label} on {env_id}: {_first_difference(config, asked)}"
    return None


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    a, b = ({**config, **config["hyperparameters"], "hyperparameters": None, "source": None} for config in (there, here))
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            return f"{name} is {a.get(name)} there and {b.get(name)} here"
    return f"from {there['source']} there and {here['source']} here"
