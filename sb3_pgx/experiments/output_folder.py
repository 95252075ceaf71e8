"""The output folder of a comparison: which files it holds, and whether a comparison can resume there."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sb3_pgx.core.files import UNFINISHED
from sb3_pgx.experiments.pool import json_round_trip
from sb3_pgx.experiments.runs import RunSpec

RECORD = "comparison.json"
SHARED = ("timesteps", "curve_points", "curve_episodes", "eval_episodes")


def run_path(folder: Path, spec: RunSpec) -> Path:
    """Return the result file of a run: ``runs/<environment>/<algorithm>-seed<k>.json``."""
    return folder / "runs" / folder_name(spec.env_id) / f"{spec.name}.json"


def folder_name(env_id: str) -> str:
    """Return an environment's name without characters that have a meaning in paths."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", env_id)


def comparison_record(specs: Sequence[RunSpec], versions: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that decides the outcome of a comparison's runs, in JSON's types."""
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
    """
    Check that results do not mix with other files.

    :param folder: folder for the results; it need not exist
    :param force: whether it may hold other files
    :raises FileExistsError: the folder is a file, or it is not empty and ``force`` is False
    """
    if folder.is_file() or (_holds_files(folder) and not force):
        kind = "a file" if folder.is_file() else "not empty"
        remedy = "" if folder.is_file() else ", or use --force to replace results of the same names"
        raise FileExistsError(f"the output folder {folder} is {kind}; choose another folder{remedy}")


def check_resumable(folder: Path, record: Mapping[str, Any], force: bool = False) -> None:
    """
    Check that a comparison can resume in its folder. It may have more seeds, algorithms or environments than before.

    :param folder: folder for the results
    :param record: the result of :func:`comparison_record`
    :param force: whether to replace existing results
    :raises FileExistsError: the folder holds another comparison or other files; the message names the difference
    """
    path = folder / RECORD
    if force or folder.is_file() or holds_other_files(folder, RECORD):
        return check_output(folder, force)
    if not path.is_file():
        return
    try:
        difference = _difference(json.loads(path.read_text(encoding="utf-8")), record)
    except (ValueError, KeyError, TypeError, AttributeError):
        difference = f"its {RECORD} cannot be read"
    if difference:
        raise FileExistsError(
            f"the output folder {folder} holds another comparison ({difference}); choose another folder, or use --force "
            "to replace results of the same names"
        )


def holds_other_files(folder: Path, first: str) -> bool:
    """
    Return whether a folder is not empty, but lacks what its owner writes first. Another process may be writing there.

    :param folder: the folder; it need not exist
    :param first: name of the file or folder that is written before all others
    """
    is_used = _holds_files(folder)  # before looking for the first file, which another process may write at any moment
    return is_used and not (folder / first).exists()


def _holds_files(folder: Path) -> bool:
    """Return whether a folder holds anything but files that are still being written."""
    return folder.is_dir() and any(not path.name.endswith(UNFINISHED) for path in folder.iterdir())


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    for name in SHARED:
        if there[name] != here[name]:
            return f"{name} was {there[name]} and is now {here[name]}"
    for name in {**there["versions"], **here["versions"]}:
        pair = (there["versions"].get(name), here["versions"].get(name))
        if None not in pair and pair[0] != pair[1]:
            return f"{name} was {pair[0]} and is now {pair[1]}"
    if set(there["seeds"]) - set(here["seeds"]):
        return f"seeds were {there['seeds']} and are now {here['seeds']}"
    for env_id, by_label in there["configs"].items():
        for label, config in by_label.items():
            asked = here["configs"].get(env_id, {}).get(label)
            if asked is None:
                return f"it includes {label} on {env_id}, which is not part of this one"
            if asked != config:
                return f"settings of {label} on {env_id}: {_first_difference(config, asked)}"
    return None


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    a, b = ({**config, **config["hyperparameters"], "hyperparameters": None, "source": None} for config in (there, here))
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            return f"{name} was {a.get(name)} and is now {b.get(name)}"
    return f"they came from {there['source']} and now come from {here['source']}"
