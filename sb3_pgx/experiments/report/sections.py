"""Composes the report of a comparison from its numbers, section by section."""

from collections.abc import Mapping, Sequence

from sb3_pgx.experiments.analysis import Analysis, Pair
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.environment_summary import EnvironmentSummary
from sb3_pgx.experiments.number_format import quantity, thousands
from sb3_pgx.experiments.report.charts import shown_aggregates
from sb3_pgx.experiments.report.explanations import explanations
from sb3_pgx.experiments.report.formats import estimate_cell, interval_text
from sb3_pgx.experiments.report.settings_text import settings_text
from sb3_pgx.experiments.report.summary import summary
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.pages.blocks import Block, Bullets, Cell, Code, Document, Note, Number, Section, Table
from sb3_pgx.pages.charts import Chart
from sb3_pgx.pages.provenance import origin

FEW_SEEDS = 10  # with fewer seeds, the report warns
FOR_IQM = 4  # with fewer seeds, the interquartile mean is the mean


def compose(
    analysis: Analysis,
    results: Sequence[RunResult],
    design: ComparisonDesign,
    charts: Mapping[str, Chart],
    preface: tuple[Section, ...] = (),
) -> Document:
    """
    Compose the report.

    :param analysis: the numbers
    :param results: all runs, for their settings
    :param design: the settings that the runs share
    :param charts: charts by name
    :param preface: sections that come before all others
    """
    single = len(design.env_ids) == 1
    where = ", ".join(design.env_ids)
    sections = [
        *preface,
        *([] if single else [Section("All environments together", _aggregates(analysis, design, charts), brief=True)]),
        *(
            Section(env_id, (_environment(summaries, env_id, design),), brief=True)
            for env_id, summaries in analysis.summaries.items()
        ),
        Section("Learning curves", _charts(("curves",), charts)),
        Section("Which algorithm is better", _pairs(analysis, design, charts), brief=True),
        Section("How fast they learn", _charts(("sample_efficiency", "wall_clock"), charts)),
        Section("How the runs are distributed", _charts(("profiles",), charts)),
        Section("What the numbers mean", (Bullets(tuple(explanations(design))),)),
        *([Section("What counts as 0 and as 1", (_scales(analysis),))] if design.scored else []),
        Section("Settings", (_settings(results),), folded=True),
        Section("How to reproduce this report", _provenance(design)),
    ]
    return Document(
        title=f"{where}: {thousands(design.timesteps)} steps, {quantity(len(design.seeds), 'seed')}",
        summary=summary(analysis, design),
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
        have, them = ("has", "it") if len(failures) == 1 else ("have", "them")
        sentence = f"{quantity(len(failures), 'run')} failed and {have} no return. "
        blocks += [f"{sentence}Run the same command with --retry-failed to repeat {them}.", Bullets((*failures,))]
    blocks += map(Note, design.without_scale())
    if 1 < len(design.seeds) < FEW_SEEDS:
        blocks.append(
            Note(
                f"{len(design.seeds)} seeds are few: the intervals are wide, and they cannot include a failure that no seed "
                f"has shown. A failure in 10 % of all runs stays unseen in {100 * 0.9 ** len(design.seeds):.0f} % of "
                "comparisons with so many seeds."
            )
        )
    if len(design.seeds) == 1:
        blocks.append(
            Note("One seed says nothing about the spread: there are no intervals, and differences may be due to chance.")
        )
    return blocks


def _aggregates(analysis: Analysis, design: ComparisonDesign, charts: Mapping[str, Chart]) -> tuple[Block, ...]:
    if not analysis.aggregates:
        return ("No algorithm has a seed that finished in every environment, so there are no aggregate scores.",)
    names = shown_aggregates(analysis, design)
    rows: list[tuple[Cell, ...]] = [
        (a.label, *(estimate_cell(a.estimates[name], 3) for name in names), f"{len(a.seeds)} of {len(design.seeds)}")
        for a in analysis.aggregates
    ]
    missing = [label for label in design.algorithms if label not in [a.label for a in analysis.aggregates]]
    rows += [(label, *["–"] * len(names), f"0 of {len(design.seeds)}") for label in missing]
    header = ("algorithm", *(f"{name} [95 % interval]" for name in names), "seeds that finished everywhere")
    left_out = [env_id for env_id in design.env_ids if env_id not in analysis.counted]
    notes = (f"Left out, because every run failed there: {', '.join(left_out)}.",) if left_out else ()
    return (*notes, Table(header, tuple(rows)), *_charts(("aggregates",), charts))


def _environment(summaries: Sequence[EnvironmentSummary], env_id: str, design: ComparisonDesign) -> Table:
    threshold = design.thresholds.get(env_id)
    has_middle = any(s.n_finished >= FOR_IQM for s in summaries)
    header = ["algorithm", "final return [95 % interval]"]
    header += ["interquartile mean [95 % interval]"] if has_middle else []
    header += [f"steps to {threshold:g}"] if threshold is not None else []
    rows = [_row(summary, threshold, has_middle, design) for summary in summaries]
    return Table((*header, "frames per second", "hyperparameters"), tuple(rows))


def _row(s: EnvironmentSummary, threshold: float | None, has_middle: bool, design: ComparisonDesign) -> tuple[Cell, ...]:
    if s.n_finished == 0:
        nothing = ["–"] * (has_middle + (threshold is not None) + 1)
        return (s.label, "every run failed", *nothing, s.source)
    total = s.n_finished + len(s.errors)
    failed = f" ({s.n_finished} of {quantity(total, 'run')}; the others failed)" if s.errors else ""
    cells: list[Cell] = [estimate_cell(s.mean, 1, failed)]
    if has_middle:
        cells.append(estimate_cell(s.interquartile_mean, 1) if s.n_finished >= FOR_IQM else "–")
    if threshold is not None:
        cells.append(_steps(s, total))
    return (s.label, *cells, Number(s.frames_per_second, thousands(s.frames_per_second)), s.source)


def _steps(s: EnvironmentSummary, total: int) -> Number:
    seeds = f"{s.reached} of {quantity(total, 'seed')}"
    if s.steps_to_threshold is None:
        return Number(float("inf"), f"median: not reached ({seeds} did)")
    return Number(s.steps_to_threshold, f"median: {thousands(s.steps_to_threshold)} ({seeds} reached it)")


def _pairs(analysis: Analysis, design: ComparisonDesign, charts: Mapping[str, Chart]) -> tuple[Block, ...]:
    if not analysis.pairs:
        return ()
    level = analysis.pairs[0].verdict.level
    unit = "score" if design.scored else "return"
    header = ["algorithm", "compared with", "verdict", f"difference of mean {unit} [{100 * (1 - level):.4g} % interval]"]
    if design.margin:
        header.append(f"[{100 * (1 - 2 * level):.4g} % interval], to lie within ±{design.margin:g}")
    header.append("probability of improvement [95 % interval]")
    table = Table(tuple(header), tuple(_pair(pair, design) for pair in analysis.pairs))
    return (*_looks(design), table, *_charts(("improvement",), charts))


def _pair(pair: Pair, design: ComparisonDesign) -> tuple[Cell, ...]:
    v, digits = pair.verdict, 3 if design.scored else 1
    why = f" ({v.reason})" if v.reason else ""
    exact = v.interval[0] == v.interval[1]
    difference = f"{v.difference:.{digits}f}{'' if exact else ' ' + interval_text(v.interval, digits)}"
    cells: list[Cell] = [pair.first, pair.second, f"{v.verdict}{why}", Number(v.difference, difference)]
    if design.margin:
        cells.append("–" if exact else interval_text(v.tost_interval, digits))
    return (*cells, estimate_cell(pair.probability, 2))


def _looks(design: ComparisonDesign) -> tuple[str, ...]:
    if not design.looks:
        return ()
    look = design.looks.index(len(design.seeds)) + 1
    end = "the comparison ended at this one" if look < len(design.looks) else "this is the last one"
    return (
        f"Looks were declared after {', '.join(map(str, design.looks))} seeds; the comparison ends at the first look at which "
        f"every pair is decided. Look {look} of {len(design.looks)}: {end}.",
    )


def _charts(names: Sequence[str], charts: Mapping[str, Chart]) -> tuple[Block, ...]:
    return tuple(charts[name] for name in names if name in charts)


def _scales(analysis: Analysis) -> Table:
    rows = tuple(
        (env_id, f"{scale.low:.1f}", scale.low_is, f"{scale.high:.1f}", scale.high_is)
        for env_id, scale in analysis.scales.items()
    )
    return Table(("environment", "return that counts as 0", "which is", "return that counts as 1", "which is"), rows)


def _settings(results: Sequence[RunResult]) -> Table:
    configs = {(r.env_id, r.label): r for r in reversed(results)}
    rows = [(r.env_id, r.label, r.source, settings_text(r.config)) for r in reversed(configs.values())]
    return Table(("environment", "algorithm", "source", "settings"), tuple(rows))


def _provenance(design: ComparisonDesign) -> tuple[Block, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in design.versions.items())
    seeds = f"Seeds {', '.join(map(str, design.seeds))}."
    return (Code(design.command), f"{seeds} Measured with {versions}. {origin()}")
