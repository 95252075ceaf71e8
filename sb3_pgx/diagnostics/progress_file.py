"""Read the ``progress.csv`` of a finished run into the series that rules and plots use."""

import csv
import math
from pathlib import Path

FILE = "progress.csv"
TIMESTEPS = "time/total_timesteps"
# Keys of SB3 that stand in for a metric in runs without DiagnosticsCallback. Some cover the last epoch or minibatch only, so
# they would give other verdicts than those of the run if the callback left the metric out.
ALIASES = {
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "explained_variance": "train/explained_variance",
    "grad_norm": "train/grad_norm",
    "grad_clipped": "train/grad_clipped",
    "kl": "train/kl",
    "kl_max": "train/kl_max",
    "std_mean": "train/std",
    "temperature": "train/ent_coef",
    "training_return": "rollout/ep_rew_mean",
}
PREFIX = "diagnostics/"


def read_progress(folder: Path) -> tuple[list[float], dict[str, list[float]]]:
    """
    Read the file of a run, logged with or without ``DiagnosticsCallback``.

    :param folder: folder with a ``progress.csv`` of SB3's logger, or that file
    :return: environment steps of each measured update, or of each row of a log without ``DiagnosticsCallback``; and a series
        per metric, with NaN for rows without a number
    :raises ValueError: the file does not exist, or it holds no metric that rules or plots use
    """
    path = folder / FILE if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(
            f'{path} does not exist; pass a folder to which a run logged: model.set_logger(configure("{folder}", ["csv"]))'
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = dict.fromkeys(name for row in rows for name in row if name)
    if f"{PREFIX}timesteps" in logged:
        rows = [row for row in rows if row.get(f"{PREFIX}timesteps")]  # SB3 logs the first rollout before the first update
    series = {name.removeprefix(PREFIX): _column(rows, name) for name in logged if name.startswith(PREFIX)}
    if not series:
        series = {metric: _column(rows, name) for metric, name in ALIASES.items() if name in logged}
    if not series:
        raise ValueError(
            f"{path} holds no metric of DiagnosticsCallback ({PREFIX}…) and none that SB3's on-policy algorithms log (train/…)"
        )
    if "timesteps" in series:
        return series["timesteps"], series
    steps = _column(rows, TIMESTEPS) if TIMESTEPS in logged else [float(i + 1) for i in range(len(rows))]
    last = 0.0
    for i, step in enumerate(steps):  # the row of the last update has no time
        steps[i] = last = last if math.isnan(step) else step
    return steps, series


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    """Return the numbers of one column, NaN for rows without one."""
    return [_number(row.get(name)) for row in rows]


def _number(text: str | None) -> float:
    """Return a number, or NaN if the text is not one."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
