"""A checkpoint: one file, which is a saved model (SB3's zip) and the state of its run."""

import io
import json
import pickle
import platform
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch as th

from sb3_pgx.checkpoints.folder import MANIFEST, STATE, check_complete, newest_checkpoint, read_manifest
from sb3_pgx.checkpoints.run_state import RunState
from sb3_pgx.checkpoints.shares import (
    given_classes,
    is_divisible,
    of_rows,
    place_of,
    processes_of,
    saved_classes,
    saved_place,
    size_of,
)
from sb3_pgx.core.errors import warn
from sb3_pgx.core.files import replacing

FORMAT = 2  # of the file; a change that older code cannot read raises it


def _version() -> str:
    return sys.modules[
        __name__.partition(".")[0]
    ].__version__  # of the package, which this module, as a lower one, cannot import


def _versions() -> dict[str, str]:
    packages = {"torch": th, "numpy": np, "gymnasium": gymnasium, "stable_baselines3": stable_baselines3}
    return {"python": platform.python_version(), **{name: package.__version__ for name, package in packages.items()}}


def write_checkpoint(path: Path, model: Any, states: Sequence[RunState]) -> None:
    """
    Write a checkpoint, completely or not at all.

    :param path: file
    :param model: the model
    :param states: of its run, one per process that learns
    :raises OSError: the file cannot be written; the message names the path
    """
    saved = io.BytesIO()
    model.save(saved)
    first = states[0].process
    manifest = {
        "format": FORMAT,
        "sb3_pgx": _version(),
        "algorithm": type(model).__name__,
        "num_timesteps": model.num_timesteps,
        "n_envs": model.n_envs,
        "processes": max(len(states), size_of(first)),
        "gathered": saved_place(first),
        "environment": saved_classes(first, model.n_envs),
        "versions": _versions(),
        "written": time.time_ns(),
    }
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive, zipfile.ZipFile(saved) as of_model:
        for member in of_model.infolist():
            archive.writestr(member, of_model.read(member))
        with archive.open(STATE, "w", force_zip64=True) as part:
            pickle.dump([*states], part, protocol=pickle.HIGHEST_PROTOCOL)
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))


def find_checkpoint(path: str | Path) -> Path:
    """
    Return a checkpoint, all of whose parts are complete.

    :param path: a checkpoint, or a folder, of which the newest one is returned
    :raises FileNotFoundError: there is none
    :raises ValueError: the file is damaged, or is no checkpoint
    """
    if Path(path).is_dir():
        newest = newest_checkpoint(path)
        if newest is None:
            raise FileNotFoundError(f"there is no complete checkpoint in {path}: give the folder of a CheckpointCallback")
        return newest
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the folder of a CheckpointCallback, or one of its files")
    if read_manifest(Path(path)) is None:
        raise ValueError(f"{path} is no checkpoint: load a model that was saved by save() with load()")
    check_complete(Path(path))
    return Path(path)


def check_matches(path: Path, algorithm: str) -> None:
    """
    Check that a checkpoint can be continued here. Other versions of the packages on which the numbers depend give a warning.

    :param path: a checkpoint
    :param algorithm: name of the class that is to continue it
    :raises ValueError: it belongs to another algorithm, or to another version of this package
    """
    manifest = read_manifest(path)
    assert manifest is not None
    if (manifest["format"], manifest["sb3_pgx"]) != (FORMAT, _version()):
        raise ValueError(
            f"{path} was written by sb3_pgx {manifest['sb3_pgx']}, and this is {_version()}: resume it with that "
            f"version, or load the model alone with {algorithm}.load"
        )
    if manifest["algorithm"] != algorithm:
        raise ValueError(f"{path} is a checkpoint of {manifest['algorithm']}: resume it with {manifest['algorithm']}.resume")
    now = _versions()
    differ = [f"{name} {old} (now {now.get(name)})" for name, old in manifest["versions"].items() if now.get(name) != old]
    if differ:
        warn(f"{path} was written with {', '.join(differ)}: the resumed run may differ in rounding")


def check_environment(path: Path, env: Any) -> None:
    """
    Check that environments are those of a checkpoint: as many, with the same wrappers, spread over processes in the same way.
    Environments that are gathered may be spread over another number of processes.

    :param path: a checkpoint
    :param env: training environments, as the model has wrapped them
    :raises ValueError: they differ; the message names the first difference
    """
    manifest = read_manifest(path)
    assert manifest is not None
    _check_processes(path, manifest, env)
    if manifest["n_envs"] != env.num_envs:
        raise ValueError(f"{path} has {manifest['n_envs']} environments, and the given one has {env.num_envs}")
    held, given = of_rows(manifest["environment"], env), given_classes(env)
    for place in [*held, *given]:
        if held.get(place) != given.get(place):
            raise ValueError(
                f"{path} has {held.get(place, 'nothing')} at {place}, and the given environment has "
                f"{given.get(place, 'nothing')}: make the environments as in the interrupted run"
            )


def _check_processes(path: Path, manifest: Mapping[str, Any], env: Any) -> None:
    processes, place = processes_of(env), place_of(env) or manifest["gathered"]
    before, now = manifest["processes"], 1 if processes is None else processes.size
    if before != now and (place is None or not is_divisible(manifest["environment"], place)):
        what = 'parallel="all_reduce"' if place is None else f"the environments of {manifest['environment'].get(place)}"
        raise ValueError(
            f"{path} was written by {before} process{'es' * (before > 1)}, and this run has {now}: {what} cannot be divided "
            f"among another number of processes; start {before}, or load the model alone with load to go on with new episodes"
        )


def described(path: Path) -> str:
    """Return the name of a checkpoint, and what distinguishes it from others of this name."""
    manifest = read_manifest(path)
    assert manifest is not None
    return f"{path.name}, written at {manifest['written'] / 1e9:.3f} s"


def read_state(path: Path, rank: int = 0) -> RunState:
    """
    Return the state of a run. This unpickles it, which runs whatever code the file's author put there.

    :param path: a complete checkpoint
    :param rank: number of the process
    """
    with zipfile.ZipFile(path) as archive, archive.open(STATE) as part:
        states = pickle.load(part)
    return states[rank if len(states) > 1 else 0]
