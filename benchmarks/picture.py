"""
Draw the README's picture: the recorded speed beside SB3's, and a recorded learning curve of both.

    python -m benchmarks.picture            # draws docs/pictures/beside_sb3.png from benchmarks/results/
    python -m benchmarks.picture --record   # trains first (minutes), and writes benchmarks/results/speed/learning_curves.json

The picture holds the numbers that it shows, so that a test sees whether it is up to date.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.provenance import ROOT, provenance
from benchmarks.speed import summary
from sb3_pgx.experiments.pool import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = ROOT / "docs" / "pictures" / "beside_sb3.png"
CURVES = RESULTS / "speed" / "learning_curves.json"
STEPS, SEEDS, POINTS = 50_000, (0, 1, 2), 25
OURS, SB3S, PALE = "#0072B2", "#D55E00", "#9ecae1"
COMPILES = ", first run (compiles)"


def figures() -> dict[str, float]:
    """Return how many times as fast each run is as the peer's, by label."""
    speeds = {}
    for words, (first, later, _) in summary.short().items():
        speeds[f"PPO, {words}{COMPILES}"] = first
        speeds[f"PPO, {words}, later run"] = later
    for words, comparison in summary.long().items():
        speeds[words.partition(", where")[0]] = comparison.ratio.median
    return {label: round(speed, 1) for label, speed in speeds.items()}


def record() -> None:
    """Train both packages' PPO on CartPole-v1, and write the mean return in each part of the run."""
    import stable_baselines3
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    import sb3_pgx

    th.set_num_threads(1)
    source = {"command": "python -m benchmarks.picture --record", **provenance()}
    curves: dict[str, list[list[float]]] = {}
    for package in (sb3_pgx, stable_baselines3):
        for seed in SEEDS:
            env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
            model = package.PPO("MlpPolicy", env, n_steps=256, seed=seed, device="cpu")
            episodes: list[tuple[int, float]] = []

            def note(values: dict[str, Any], _: Any, episodes: list[tuple[int, float]] = episodes) -> bool:
                done = (info["episode"]["r"] for info in values["infos"] if "episode" in info)
                episodes.extend((values["self"].num_timesteps, float(r)) for r in done)
                return True

            model.learn(STEPS, callback=note)
            curves.setdefault(package.__name__, []).append(_means(episodes))
            print(f"{package.__name__}, seed {seed}: {curves[package.__name__][-1][-1]}", flush=True)
    write_json(CURVES, {**source, "environment": "CartPole-v1", "steps": STEPS, "seeds": SEEDS, "mean_returns": curves})


def _means(episodes: list[tuple[int, float]]) -> list[float]:
    edges = np.linspace(0, STEPS, POINTS + 1)
    steps, returns = np.array(episodes).T
    return [round(float(returns[(steps > a) & (steps <= b)].mean()), 1) for a, b in pairwise(edges)]


def draw(path: Path = PICTURE) -> None:
    """
    Draw the picture.

    :param path: the PNG file
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    speeds = figures()
    _bars(left, speeds)
    _curves(right, json.loads(CURVES.read_text(encoding="utf-8")))
    FigureCanvasAgg(figure).print_png(path, metadata={"Description": shown()})


def shown() -> str:
    """Return the numbers that the picture shows, as text."""
    return json.dumps([figures(), json.loads(CURVES.read_text(encoding="utf-8"))["mean_returns"]])


def _bars(axes: "Axes", speeds: dict[str, float]) -> None:
    labels = list(speeds)
    colours = [PALE if label.endswith(COMPILES) else OURS for label in labels]
    bars = axes.barh(range(len(labels)), list(speeds.values()), color=colours, height=0.72)
    axes.bar_label(bars, [f"{speed:g} ×" for speed in speeds.values()], padding=3, fontsize=8)
    axes.axvline(1, color=SB3S, linewidth=1.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(speeds.values()))
    axes.set_title("times as fast as SB3 or sb3-contrib (orange line: as fast)", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _curves(axes: "Axes", recorded: dict[str, Any]) -> None:
    steps = np.linspace(0, recorded["steps"], POINTS + 1)[1:]
    for package, colour in (("stable_baselines3", SB3S), ("sb3_pgx", OURS)):
        runs = np.array(recorded["mean_returns"][package])
        axes.plot(steps, runs.T, color=colour, alpha=0.35, linewidth=1)
        axes.plot(steps, runs.mean(axis=0), color=colour, linewidth=2.2, label=package)
    axes.set_title(f"PPO on {recorded['environment']}: return of training episodes", fontsize=9, loc="left")
    axes.set_xlabel(f"environment steps (mean and each of {len(recorded['seeds'])} seeds)", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93")


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=(__doc__ or "").strip().split("\n")[0])
    parser.add_argument("--record", action="store_true", help="train first")
    if parser.parse_args(arguments).record:
        record()
    draw()
    print(f"written: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
