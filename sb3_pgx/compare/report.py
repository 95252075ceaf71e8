"""A comparison as a person reads it: a Markdown table, and learning curves with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_pgx.compare.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart; black and yellow are left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


# Below this number of seeds the report warns of too narrow an interval.
FEW_SEEDS = 10


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison share, and what its report has to say about them."""

    env_id: str
    seeds: tuple[int, ...]
    timesteps: int
    threshold: float | None
    eval_episodes: int
    curve_episodes: int
    workers: int


def markdown(summaries: Sequence[Summary], setting: Setting) -> str:
    """The report: a table with a row for each algorithm, what the numbers mean, and the runs that failed."""
    with_threshold = setting.threshold is not None
    header = ["algorithm", "final return (95 % interval)"]
    header += [f"steps to {setting.threshold:g}"] if with_threshold else []
    header += ["frames per second", "hyperparameters"]
    rows = [_row(s, setting) for s in summaries]
    lines = [
        f"# {setting.env_id}, {thousands(setting.timesteps)} steps, {_count(len(setting.seeds), 'seed')}",
        "",
        _table_line(header),
        _table_line(["---"] * len(header)),
        *map(_table_line, rows),
        "",
        *_notes(setting),
    ]
    failures = [f"- {s.label}, seed {seed}: {error}" for s in summaries for seed, error in s.errors.items()]
    if failures:
        lines += ["", f"**{_count(len(failures), 'run')} failed** and gave no return:", "", *failures]
    return "\n".join(lines) + "\n"


def draw_curves(summaries: Sequence[Summary], setting: Setting) -> "Figure":
    """Learning curves: a line for the mean over seeds, a band for its interval, a dashed line for the threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for index, summary in enumerate(summaries):
        color = COLORS[index % len(COLORS)]
        if summary.curve is None:
            continue
        curve = summary.curve
        axes.plot(curve.steps, curve.mean, color=color, linewidth=1.8, label=summary.label)
        if np.isfinite(curve.low).all():
            axes.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    if setting.threshold is not None:
        label = f"threshold {setting.threshold:g}"
        axes.axhline(setting.threshold, color="0.35", linestyle="--", linewidth=1, label=label, zorder=1)
    _dress(axes, setting)
    return figure


def save_curves(summaries: Sequence[Summary], setting: Setting, path: Path) -> None:
    """Writes :func:`draw_curves` as PNG, without touching matplotlib's process-wide state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw_curves(summaries, setting)
    FigureCanvasAgg(figure).print_png(path)


def _dress(axes: "Axes", setting: Setting) -> None:
    from matplotlib.ticker import EngFormatter

    band = ", band: 95 % bootstrap interval" if len(setting.seeds) > 1 else ""
    axes.set_title(f"{setting.env_id}: mean over {_count(len(setting.seeds), 'seed')}{band}", loc="left", fontsize=11)
    axes.set_xlabel("environment steps, all environments together")
    axes.set_ylabel(f"return of {_count(setting.curve_episodes, 'deterministic episode')} (undiscounted)")
    axes.set_xlim(0, setting.timesteps)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _row(summary: Summary, setting: Setting) -> list[str]:
    if summary.n_finished == 0:
        return [summary.label, "every run failed", *(["–"] if setting.threshold is not None else []), "–", summary.source]
    low, high = summary.interval
    interval = f"[{low:.1f}, {high:.1f}]" if np.isfinite(low) else "no interval from one seed"
    total = len(setting.seeds)
    failed = f", of {summary.n_finished} of {_count(total, 'run')}: the others failed" if summary.errors else ""
    row = [summary.label, f"{summary.final_return:.1f} ({interval}{failed})"]
    if setting.threshold is not None:
        steps = summary.steps_to_threshold
        median = f"not by {thousands(setting.timesteps)}" if steps is None else thousands(steps)
        row.append(f"{median} ({summary.reached} of {_count(total, 'seed')} reached it)")
    return [*row, thousands(summary.frames_per_second), summary.source]


def _notes(setting: Setting) -> list[str]:
    notes = [
        f"- Final return: {_count(setting.eval_episodes, 'deterministic episode')} of the final policy for each seed; the "
        f"mean over seeds {list(setting.seeds)} of each seed's mean, with a percentile bootstrap interval over seeds.",
        f"- Every algorithm learned from at most {thousands(setting.timesteps)} environment steps, all environments "
        "together; a rollout that would have ended later was cut short and not learned from.",
        f"- Frames per second: environment steps by seconds of training, without evaluations, on one thread each; up to "
        f"{_count(setting.workers, 'run')} at a time shared the machine.",
    ]
    if 1 < len(setting.seeds) < FEW_SEEDS:
        notes.append(
            f"- {len(setting.seeds)} seeds are few: a bootstrap interval never leaves the range of their means (with 3 it is "
            "that range, and covers the true mean in about 75 % of cases, not 95 %). It is a lower bound of the uncertainty."
        )
    if setting.threshold is not None:
        notes.append(
            f"- Steps to the threshold: the first evaluation ({_count(setting.curve_episodes, 'deterministic episode')}) "
            "whose mean reached it; median over seeds, never counting as later than any."
        )
    return notes


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def thousands(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
