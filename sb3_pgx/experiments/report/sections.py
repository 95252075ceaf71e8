"""Composes the report of a comparison from its numbers, section by section."""

import math
from collections.abc import Collection, Sequence

from sb3_pgx.experiments.analysis import Analysis
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.environment_summary import EnvironmentSummary, Estimate
from sb3_pgx.experiments.number_format import quantity, thousands
from sb3_pgx.experiments.report.blocks import Block, Bullets, Code, Document, Picture, Section, Table
from sb3_pgx.experiments.report.explanations import explanations, picture_caption
from sb3_pgx.experiments.runs import RunResult

FEW_SEEDS = 10  # with fewer seeds, the report warns that intervals are too narrow


def compose(analysis: Analysis, results: Sequence[RunResult], design: ComparisonDesign, pictures: Collection[str]) -> Document:
    """
    Compose the report.

    :param analysis: the numbers
    :param results: all runs, for their settings
    :param design: the settings that the runs share
    :param pictures: names of the pictures that were drawn
    """
    single = len(design.env_ids) == 1
    where = ", ".join(design.env_ids)
    sections = [
        *([] if single else [Section("All environments together", _aggregates(analysis, design, pictures), brief=True)]),
        *(
            Section(env_id, (_environment(summaries, env_id, design),), brief=True)
            for env_id, summaries in analysis.summaries.items()
        ),
        Section("Learning curves", _pictures(("curves",), design, pictures)),
        Section("How the runs are distributed", _pictures(("profiles",), design, pictures)),
        Section("Which algorithm is better", _improvements(analysis, design, pictures)),
        Section("How fast they learn", _pictures(("sample_efficiency", "wall_clock"), design, pictures)),
        Section("What the numbers mean", (Bullets(tuple(explanations(design))),)),
        *([Section("What counts as 0 and as 1", (_scales(analysis),))] if design.scored else []),
        Section("Settings", (_settings(results),)),
        Section("How to reproduce this report", _provenance(design)),
    ]
    return Document(
        title=f"{where}: {thousands(design.timesteps)} steps, {quantity(len(design.seeds), 'seed')}",
        lead=tuple(_lead(analysis, results, design)),
        sections=tuple(section for section in sections if section.blocks),
    )


def _lead(analysis: Analysis, results: Sequence[RunResult], design: ComparisonDesign) -> list[Block]:
    """Warnings that come first because they affect how all else is read: missing runs, failed runs, and too few seeds."""
    blocks: list[Block] = []
    if missing := [f"{label} on {env_id}, seed {seed}" for env_id, label, seed in design.missing(results)]:
        blocks += [
            f"{quantity(len(missing), 'run')} of {len(missing) + len(results)} missing: this report is about the others.",
            Bullets((*missing,)),
        ]
    failures = [
        f"{s.label} on {env_id}, seed {seed}: {error}"
        for env_id, summaries in analysis.summaries.items()
        for s in summaries
        for seed, error in s.errors.items()
    ]
    if failures:
        blocks += [
            f"{quantity(len(failures), 'run')} failed and have no return. Run the same command with --retry-failed to repeat "
            "them.",
            Bullets((*failures,)),
        ]
    if 1 < len(design.seeds) < FEW_SEEDS:
        blocks.append(
            f"{len(design.seeds)} seeds are few: a bootstrap interval never exceeds the range of the measured values. (With 3 "
            "seeds in one environment it equals that range, and covers the true mean in about 75 % of cases, not 95 %.) The "
            "true uncertainty is larger."
        )
    if len(design.seeds) == 1:
        blocks.append("One seed says nothing about the spread: there are no intervals, and differences may be due to chance.")
    return blocks


def _aggregates(analysis: Analysis, design: ComparisonDesign, pictures: Collection[str]) -> tuple[Block, ...]:
    if not analysis.aggregates:
        return ("No algorithm has a seed that finished in every environment, so there are no aggregate scores.",)
    names = list(analysis.aggregates[0].estimates)
    rows = [
        (a.label, *(_interval(a.estimates[name], 3) for name in names), f"{len(a.seeds)} of {len(design.seeds)}")
        for a in analysis.aggregates
    ]
    missing = [label for label in design.algorithms if label not in [a.label for a in analysis.aggregates]]
    rows += [(label, *["–"] * len(names), f"0 of {len(design.seeds)}") for label in missing]
    table = Table(("algorithm", *names, "seeds that finished everywhere"), tuple(rows))
    return (table, *_pictures(("aggregates",), design, pictures))


def _environment(summaries: Sequence[EnvironmentSummary], env_id: str, design: ComparisonDesign) -> Table:
    threshold = design.thresholds.get(env_id)
    header = ["algorithm", "final return [95 % interval]", "interquartile mean"]
    header += [f"steps to {threshold:g}"] if threshold is not None else []
    rows = [_row(summary, threshold, design) for summary in summaries]
    return Table((*header, "frames per second", "hyperparameters"), tuple(rows))


def _row(s: EnvironmentSummary, threshold: float | None, design: ComparisonDesign) -> tuple[str, ...]:
    if s.n_finished == 0:
        return (s.label, "every run failed", "–", *(["–"] if threshold is not None else []), "–", s.source)
    total = s.n_finished + len(s.errors)
    failed = f" ({s.n_finished} of {quantity(total, 'run')}; the others failed)" if s.errors else ""
    cells = [f"{_interval(s.mean, 1)}{failed}", _interval(s.interquartile_mean, 1)]
    if threshold is not None:
        steps = s.steps_to_threshold
        median = f"not within {thousands(design.timesteps)}" if steps is None else thousands(steps)
        cells.append(f"{median} ({s.reached} of {quantity(total, 'seed')} reached it)")
    return (s.label, *cells, thousands(s.frames_per_second), s.source)


def _improvements(analysis: Analysis, design: ComparisonDesign, pictures: Collection[str]) -> tuple[Block, ...]:
    if not analysis.improvements:
        return ()
    rows = tuple((i.first, i.second, _interval(i.probability, 2)) for i in analysis.improvements)
    table = Table(("algorithm", "compared with", "probability of improvement [95 % interval]"), rows)
    return (table, *_pictures(("improvement",), design, pictures))


def _pictures(names: Sequence[str], design: ComparisonDesign, drawn: Collection[str]) -> tuple[Block, ...]:
    return tuple(Picture(name, picture_caption(name, design)) for name in names if name in drawn)


def _scales(analysis: Analysis) -> Table:
    rows = tuple(
        (env_id, f"{scale.low:.1f}", scale.low_is, f"{scale.high:.1f}", scale.high_is)
        for env_id, scale in analysis.scales.items()
    )
    return Table(("environment", "return that counts as 0", "which is", "return that counts as 1", "which is"), rows)


def _settings(results: Sequence[RunResult]) -> Table:
    configs = {(r.env_id, r.label): r for r in reversed(results)}
    rows = [(r.env_id, r.label, r.source, _written(r.config)) for r in reversed(configs.values())]
    return Table(("environment", "algorithm", "source", "settings"), tuple(rows))


def _written(config: dict[str, object]) -> str:
    """Return a run's settings in one line, with the keys of a hyperparameter file. Empty ones are left out."""
    shown = {name: value for name, value in config.items() if name not in ("source", "n_timesteps", "hyperparameters")}
    hyperparameters = config.get("hyperparameters")
    if shown.get("normalize") == {}:
        shown["normalize"] = True  # VecNormalize with its defaults
    shown |= hyperparameters if isinstance(hyperparameters, dict) else {}
    return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in (None, {}, (), []))


def _provenance(design: ComparisonDesign) -> tuple[Block, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in design.versions.items())
    seeds = f"Seeds {', '.join(map(str, design.seeds))}."
    return tuple(block for block in (Code(design.command), f"{seeds} Measured with {versions}.") if block)


def _interval(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f} (no interval from one seed)"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
