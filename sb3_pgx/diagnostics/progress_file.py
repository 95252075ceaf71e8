"""A finished run's ``progress.csv``, as the series that rules and plots read."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from sb3_pgx.diagnostics.conditions import Rule, Watch

FILE = "progress.csv"
TIMESTEPS = "time/total_timesteps"
# What SB3 logs itself of the same things, for runs without DiagnosticsCallback; of the last epoch or minibatch only.
ALIASES = {
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "explained_variance": "train/explained_variance",
    "grad_norm": "train/grad_norm",
    "grad_clipped": "train/grad_clipped",
    "kl": "train/kl",
    "kl_max": "train/kl_max",
    "std_mean": "train/std",
    "training_return": "rollout/ep_rew_mean",
}
PREFIX = "diagnostics/"


def read_progress(folder: Path) -> tuple[list[float], dict[str, list[float]]]:
    """
    :param folder: with a ``progress.csv`` of SB3's logger, or that file
    :return: environment steps of each row, and series by metric, NaN where a row has no number
    :raises ValueError: there is no such file, or it holds nothing that can be judged
    """
    path = folder / FILE if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(
            f'{path} does not exist; give a folder that a run logged to: model.set_logger(configure("{folder}", ["csv"]))'
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = dict.fromkeys(name for row in rows for name in row if name)
    series = {name.removeprefix(PREFIX): column(rows, name) for name in logged if name.startswith(PREFIX)}
    for metric, name in ALIASES.items():
        if metric not in series and name in logged:
            series[metric] = column(rows, name)
    if not series:
        raise ValueError(f"{path} holds neither {PREFIX}… nor what SB3's on-policy algorithms log under train/")
    steps = column(rows, TIMESTEPS) if TIMESTEPS in logged else [float(i + 1) for i in range(len(rows))]
    last = 0.0
    for i, step in enumerate(steps):  # the row of the last update has no time of its own
        steps[i] = last = last if math.isnan(step) else step
    return steps, series


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    """The numbers under one name, NaN where there is none."""
    return [number(row.get(name)) for row in rows]


def number(text: str | None) -> float:
    """NaN where it is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def judge(rules: tuple[Rule, ...], series: Mapping[str, list[float]]) -> list[Watch]:
    """What the rules would have said during the run, row after row."""
    watches = [Watch(rule) for rule in rules]
    total = max((len(values) for values in series.values()), default=0)
    so_far: dict[str, list[float]] = {name: [] for name in series}
    for row in range(total):
        for name, values in series.items():
            so_far[name].append(values[row])
        for watch in watches:
            watch.look(so_far, (row + 1) / total)
    return watches
