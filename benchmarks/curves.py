"""
Train each algorithm on one small task, and draw the learning curves of its page.

    python -m benchmarks.curves ppo sac  # trains these, writes benchmarks/results/curves/<name>.json, and draws
    python -m benchmarks.curves          # trains all
    python -m benchmarks.curves ppo --seeds 1103 1104  # trains with some seeds; the record keeps the others of the same commit
    python -m benchmarks.curves --draw   # draws every record into docs/pictures/curves/, without training

The runs are short, so that all of them take minutes: they show what learning looks like, and claim nothing. Whatever comes
out is published. A picture holds the numbers that it shows, so that a test sees whether it is up to date.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch as th

import sb3_pgx
from benchmarks import RESULTS
from benchmarks.provenance import ROOT, provenance
from sb3_pgx.experiments.pool import json_round_trip, run_here, write_json
from sb3_pgx.experiments.runs import RunResult, RunSpec
from sb3_pgx.experiments.statistics import align_curves, interquartile_mean
from sb3_pgx.registry import EVERY_ALGORITHM, OFF_POLICY, name_of
from sb3_pgx.settings.configs import load_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = RESULTS / "curves"
PICTURES = ROOT / "docs" / "pictures" / "curves"
SEEDS = (1100, 1101, 1102, 1103, 1104)
POINTS, POINT_EPISODES, FINAL_EPISODES = 10, 5, 20
CLASSES = {**EVERY_ALGORITHM, **{name_of(cls): cls for cls in (getattr(sb3_pgx, name) for name in sb3_pgx.OF_CONTRIB)}}
# Colours of the axes and texts, and of the curves, by the theme of the page. The background is the page's.
THEMES = {"light": ("#333333", "#0072B2"), "dark": ("#cccccc", "#56B4E9")}


@dataclass(frozen=True)
class Task:
    """
    What an algorithm is trained on.

    :param env_id: Gymnasium's name of the environment
    :param timesteps: environment steps per run, summed over the parallel environments
    :param settings: name of the hyperparameter file without the suffix; ``None``: that of the algorithm
    :param changes: hyperparameters that replace those of the file
    """

    env_id: str
    timesteps: int
    settings: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)


# Short runs, so that all algorithms together take minutes on one core. The files let TD3 and DDPG begin with 10,000 random
# steps, more than a run has here, and their large networks take most of the time.
ROLLOUTS = Task("CartPole-v1", 30_000)
REPLAY = Task("Pendulum-v1", 10_000, changes={"learning_starts": 1_000, "policy_kwargs": {"net_arch": [64, 64]}})
OTHERS = {
    "maskable_ppo": Task("sb3_pgx.tasks:InvalidActions-v0", 20_000, settings="ppo"),
    "recurrent_ppo": Task("sb3_pgx.tasks:CartPoleNoVel-v1", 30_000, settings="ppo"),
}


def task_of(name: str) -> Task:
    """
    Return what an algorithm is trained on.

    :param name: name of the algorithm on the command line
    """
    return OTHERS.get(name, REPLAY if name in OFF_POLICY else ROLLOUTS)


def specs_of(name: str, seeds: Sequence[int] = SEEDS) -> list[RunSpec]:
    """
    Return the runs of an algorithm, one per seed.

    :param name: name of the algorithm on the command line
    :param seeds: their seeds
    """
    task = task_of(name)
    config = load_config(task.settings or name, task.env_id)
    config = config.with_hyperparameters({**config.hyperparameters, **task.changes})
    counts = (POINTS, POINT_EPISODES, FINAL_EPISODES)
    return [RunSpec(name, CLASSES[name], task.env_id, seed, task.timesteps, config, *counts) for seed in seeds]


def record(name: str, seeds: Sequence[int] = SEEDS, folder: Path = FOLDER, timesteps: int | None = None) -> None:
    """
    Train an algorithm with each seed, and write the record. Runs of other seeds are kept if commit and settings are the same.

    :param name: name of the algorithm on the command line
    :param seeds: seeds to train with
    :param folder: where ``<name>.json`` is written
    :param timesteps: environment steps per run; default: those of :func:`task_of`
    """
    th.set_num_threads(1)
    source = {"command": f"python -m benchmarks.curves {name}", **provenance()}
    specs = [replace(spec, timesteps=timesteps or spec.timesteps) for spec in specs_of(name, seeds)]

    def note(result: RunResult) -> None:
        outcome = result.error or f"{result.mean_return:.1f} after {result.training_seconds:.0f} s"
        print(f"{name}, seed {result.seed}: {outcome}", flush=True)

    runs = run_here(specs, on_result=note)
    entry: dict[str, Any] = {
        **source,
        "versions": specs[0].versions,
        "environment": task_of(name).env_id.rpartition(":")[2],
        "settings": specs[0].config.source,
        "changes": task_of(name).changes,
        "config": asdict(specs[0].config),
        "timesteps": specs[0].timesteps,
        "runs": [
            {
                "seed": run.seed,
                "steps": run.curve_steps,
                "returns": [round(value, 2) for value in run.curve_returns],
                "final_return": None if run.error else round(run.mean_return, 2),
                "training_seconds": round(run.training_seconds, 1),
                "error": run.error,
            }
            for run in runs
        ],
    }
    before = recorded(folder).get(name)
    if before and all(json_round_trip(entry[key]) == before[key] for key in ("commit", "config", "timesteps")):
        by_seed = {run["seed"]: run for run in [*before["runs"], *entry["runs"]]}
        entry["runs"] = [by_seed[seed] for seed in sorted(by_seed)]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", entry)


def recorded(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """
    Return every record, by the name of the algorithm.

    :param folder: that of the records
    """
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def markdown(name: str, folder: Path = FOLDER) -> str:
    """
    Return the pictures of a record, and what they show in words.

    :param name: name of the algorithm on the command line
    :param folder: that of the records
    """
    entry = recorded(folder)[name]
    title = f"Learning curves of {CLASSES[name].__name__} on {entry['environment']}"
    pictures = [
        f"```{{image}} ../pictures/curves/{name}.{theme}.png\n:class: only-{theme}\n:alt: {title}\n```" for theme in THEMES
    ]
    file = entry["settings"].partition(":")[0]
    changes = " and ".join(f"`{key}={value}`" for key, value in entry["changes"].items())
    source = f"settings of `zoo_configs/{file}`" if file.endswith(".yml") else entry["settings"]
    if changes:
        source += f" with {changes}"
    runs = entry["runs"]
    finals = ", ".join("failed" if run["error"] else f"{run['final_return']:.1f}" for run in runs)
    seeds = f"seeds {runs[0]['seed']} to {runs[-1]['seed']}"
    measured = f"mean return of {POINT_EPISODES} deterministic episodes"
    last = f"After {entry['timesteps']:,} steps, the mean of {FINAL_EPISODES} episodes is, seed by seed, {finals}."
    again = f"`{entry['command']}` repeats it (measured at commit `{entry['commit'][:7]}`)."
    words = [
        f"`{CLASSES[name].__name__}` on {entry['environment']}, {source}, {seeds}: {measured}.",
        last,
        f"A short run that claims nothing: {again}",
    ]
    return "\n\n".join([*pictures, "\n".join(words)])


def shown(name: str) -> str:
    """
    Return the numbers that an algorithm's pictures show, as text.

    :param name: name of the algorithm on the command line
    """
    return json.dumps([[run["seed"], run["steps"], run["returns"]] for run in recorded()[name]["runs"]])


def draw(name: str, folder: Path = PICTURES) -> None:
    """
    Draw an algorithm's pictures, one per theme.

    :param name: name of the algorithm on the command line
    :param folder: where ``<name>.light.png`` and ``<name>.dark.png`` are written
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        canvas = FigureCanvasAgg(_figure(recorded()[name], *colours))
        canvas.print_png(folder / f"{name}.{theme}.png", metadata={"Description": shown(name)})


def _figure(entry: dict[str, Any], ink: str, colour: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0), dpi=110, layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    curves = [(run["steps"], run["returns"]) for run in entry["runs"] if run["steps"]]
    for i, (steps, returns) in enumerate(curves):
        axes.plot(steps, returns, color=colour, alpha=0.4, linewidth=1, label=None if i else f"each of {len(curves)} seeds")
    if curves:
        grid, heights = align_curves(curves)
        axes.plot(grid, interquartile_mean(heights, axis=0), color=colour, linewidth=2.4, label="interquartile mean")
    axes.set_xlim(0, entry["timesteps"])
    axes.set_xlabel("environment steps", color=ink)
    axes.set_ylabel("return of an episode", color=ink)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(colors=ink)
    axes.grid(color=ink, alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.set_title(entry["environment"], color=ink, fontsize=10, loc="left")
    figure.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2, labelcolor=ink)
    return figure


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=(__doc__ or "").strip().split("\n")[0])
    parser.add_argument("algorithms", nargs="*", metavar="algorithm", help=f"default: all of {', '.join(CLASSES)}")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS, help="default: all of %(choices)s")
    parser.add_argument("--draw", action="store_true", help="draw what is recorded, without training")
    options = parser.parse_args(arguments)
    if unknown := sorted({*options.algorithms} - {*CLASSES}):
        parser.error(f"{', '.join(unknown)}: there is no such algorithm; choose {', '.join(CLASSES)}")
    names = options.algorithms or list(recorded() if options.draw else CLASSES)
    for name in [] if options.draw else names:  # all before the first picture, which would make the checkout unclean
        record(name, options.seeds)
    for name in names:
        draw(name)
        print(f"drawn: docs/pictures/curves/{name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
