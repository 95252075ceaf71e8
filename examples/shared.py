"""Shared by the examples: command line, recorded training runs, numbers with intervals, tables and pictures."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization, unwrap_vec_normalize

from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.experiments.statistics import (
    bootstrap_interval,
    bootstrap_interval_of_groups,
    interquartile_mean,
    interquartile_mean_difference,
)
from sb3_pgx.pages.looks import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVAL_SEED = 2_000_000  # far from the seeds of training


@dataclass(frozen=True)
class Arguments:
    """Parsed command line: the seeds, whether the run is only a quick check, and the picture to write."""

    seeds: range
    quick: bool
    picture: Path

    @property
    def n_seeds(self) -> str:
        """Number of seeds in words: ``1 seed``, ``3 seeds``."""
        return f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"

    def steps(self, default: int, quick: int = 2_000) -> int:
        """Return the number of environment steps: ``default``, or ``quick`` with ``--quick``."""
        return quick if self.quick else default


def arguments(script: str, question: str, seeds: int, argv: Sequence[str] | None = None) -> Arguments:
    """
    Parse the command line, which is the same for all examples, before any work is done.

    :param script: ``__file__`` of the script; the picture gets its name
    :param question: question that the script answers
    :param seeds: default number of seeds; with ``--quick`` it is one
    :param argv: command line without the script's name; ``None``: that of the process
    """
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--seeds", type=int, help=f"number of seeds, counted from 0 (default {seeds})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run for a few seconds to check that the script works; the numbers have no meaning",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/examples"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace an earlier picture")
    args = parser.parse_args(argv)
    n_seeds = (1 if args.quick else seeds) if args.seeds is None else args.seeds
    if n_seeds < 1:
        parser.error(f"--seeds {n_seeds}: at least one is needed")
    picture = args.output / f"{Path(script).stem}.png"
    if picture.exists() and not args.force:
        parser.error(f"{picture} exists already; --force replaces it, --output DIR writes elsewhere")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)  # an error shows before the work, not after it
    except OSError as error:
        parser.error(f"--output {args.output}: {error.strerror}")
    require_extra("the examples", ("matplotlib", "scipy"))
    print(f"{question}\n")
    th.set_num_threads(1)  # the networks are small, so more threads would only wait for each other
    return Arguments(range(n_seeds), args.quick, picture)


@dataclass(frozen=True)
class Run:
    """
    A training run.

    :param steps: environment steps at the end of each training episode
    :param returns: return of each training episode
    :param seconds: wall-clock time of training
    :param final_return: mean return of the trained policy; NaN if it was not evaluated
    """

    steps: np.ndarray
    returns: np.ndarray
    seconds: float
    final_return: float

    @property
    def late_return(self) -> float:
        """Mean return of the training episodes in the last fifth of the steps, exploration included."""
        return float(self.returns[self.steps > 0.8 * self.steps[-1]].mean()) if len(self.steps) else float("nan")


class EpisodeReturns(BaseCallback):
    """Keep the return of every training episode, before any scaling or normalisation of the rewards."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:  # from SB3's Monitor
                self.steps.append(self.num_timesteps)
                self.returns.append(info["episode"]["r"])
        return True


def announce(variant: str, seeds: int | range) -> None:
    """Say on stderr which of the compared variants runs now, with which seed or seeds."""
    which = f"seed {seeds}" if isinstance(seeds, int) else f"seeds {', '.join(map(str, seeds))}"
    print(f"  {variant}, {which}", file=sys.stderr, flush=True)


def train(
    model: BaseAlgorithm,
    timesteps: int,
    callbacks: Sequence[BaseCallback] = (),
    eval_episodes: int = 20,
    *,
    variant: str,
    **options: Any,
) -> Run:
    """
    Train the model, record and time the run, then evaluate it.

    :param variant: what tells this run from those that it is compared with, for the line that says what is running
    :param eval_episodes: 0: do not evaluate
    :param options: further arguments of ``learn``
    """
    announce(variant, model.seed)
    episodes = EpisodeReturns()
    start = time.perf_counter()
    model.learn(timesteps, callback=[episodes, *callbacks], **options)
    seconds = time.perf_counter() - start
    final_return = evaluate(model, eval_episodes) if eval_episodes else float("nan")
    model.get_env().close()
    run = Run(np.array(episodes.steps), np.array(episodes.returns), seconds, final_return)
    print(f"    {seconds:.0f} s, late training return {run.late_return:.1f}", file=sys.stderr)
    return run


def evaluate(model: BaseAlgorithm, episodes: int = 20) -> float:
    """Return the mean return of the deterministic policy on new episodes, with raw rewards."""
    spec = model.get_env().get_attr("unwrapped")[0].spec
    env = make_vec_env(spec.id, env_kwargs=spec.kwargs, n_envs=min(episodes, 10), seed=EVAL_SEED)
    if (normalize := unwrap_vec_normalize(model.get_env())) is not None:
        env = VecNormalize(env, training=False, norm_obs=normalize.norm_obs, norm_reward=False)
        sync_envs_normalization(model.get_env(), env)
    mean, _ = evaluate_policy(model, env, episodes, deterministic=True)
    env.close()
    return float(mean)


def with_interval(values: Sequence[float], digits: int = 1) -> str:
    """Return the interquartile mean over seeds with its 95 % bootstrap interval: ``412.3 [380.1, 450.0]``."""
    iqm = f"{interquartile_mean(values):.{digits}f}"
    low, high = bootstrap_interval(values, interquartile_mean)
    return f"{iqm} [{low:.{digits}f}, {high:.{digits}f}]" if len(values) > 1 else f"{iqm} (one seed)"


def difference(a: Sequence[float], b: Sequence[float], digits: int = 1) -> str:
    """Return the interquartile mean of ``a`` minus that of ``b``, with its interval: ``+12.3 [-4.0, 30.2]``."""
    gap = f"{interquartile_mean_difference(a, b):+.{digits}f}"
    low, high = bootstrap_interval_of_groups((a, b), interquartile_mean_difference)
    return f"{gap} [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else f"{gap} (one seed)"


def direction(a: Sequence[float], b: Sequence[float]) -> int:
    """Return 1 if ``a`` is above ``b``, −1 if below, 0 if the interval of the difference contains 0 or there is one seed."""
    low, high = bootstrap_interval_of_groups((a, b), interquartile_mean_difference)
    return int(low > 0) - int(high < 0)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table with aligned columns, and an empty line."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print()


def new_figure(n_panels: int = 1) -> tuple["Figure", list["Axes"]]:
    """Return a figure with panels side by side (in two rows if there are more than three), without pyplot's global state."""
    from matplotlib.figure import Figure

    n_rows = 1 if n_panels <= 3 else 2
    n_columns = math.ceil(n_panels / n_rows)
    figure = Figure(figsize=(1.5 + 5 * n_columns, 4.2 * n_rows), dpi=120, layout="constrained")
    panels = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n_panels)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.set_prop_cycle(color=COLORS)
    return figure, panels


def draw_curves(axes: "Axes", runs: Mapping[str, Sequence[Run]], timesteps: int, points: int = 25) -> None:
    """Draw a learning curve per label: the mean over seeds of the mean return, with a band from the lowest to the highest."""
    from matplotlib.ticker import EngFormatter

    edges = np.linspace(0, timesteps, points + 1)
    for label, of_label in runs.items():
        curves = np.array([smooth(run, edges) for run in of_label])
        (line,) = axes.plot(edges[1:], curves.mean(axis=0), label=label)
        axes.fill_between(edges[1:], curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of training episodes")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False, fontsize="small")


def smooth(run: Run, edges: np.ndarray) -> np.ndarray:
    """Return the mean return of the episodes between two edges; if there are none, the last mean; NaN before the first."""
    means = np.full(len(edges) - 1, np.nan)
    for i, (start, end) in enumerate(pairwise(edges)):
        inside = (run.steps > start) & (run.steps <= end)
        means[i] = run.returns[inside].mean() if inside.any() else means[i - 1] if i else np.nan
    return means


def save(figure: "Figure", args: Arguments) -> None:
    """Write the picture, and print its path and, if there was one seed only, what that means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(args.picture)
    if len(args.seeds) == 1:
        print("\nThis was one seed: another may give other numbers (--seeds 5 shows how far apart they are).")
    print(f"\nPicture: {args.picture}")
