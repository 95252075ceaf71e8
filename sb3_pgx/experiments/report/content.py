"""What the report of a comparison says, from the numbers that were found."""

import math
from collections.abc import Collection, Sequence

from sb3_pgx.experiments.findings import Findings
from sb3_pgx.experiments.report.document import Block, Bullets, Code, Document, Picture, Section, Table
from sb3_pgx.experiments.report.meaning import meaning, picture_caption
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.setting import Setting
from sb3_pgx.experiments.summary import Estimate, Summary
from sb3_pgx.experiments.wording import count, thousands

# Below this number of seeds the report warns of too narrow an interval.
FEW_SEEDS = 10


def compose(findings: Findings, results: Sequence[RunResult], setting: Setting, pictures: Collection[str]) -> Document:
    """
    :param findings: the numbers
    :param results: all runs, for their settings and failures
    :param setting: what the runs share
    :param pictures: names of those that were drawn
    """
    single = len(setting.env_ids) == 1
    where = ", ".join(setting.env_ids)
    sections = [
        *([] if single else [Section("All environments together", _aggregates(findings, setting, pictures), brief=True)]),
        *(
            Section(env_id, (_environment(summaries, env_id, setting),), brief=True)
            for env_id, summaries in findings.summaries.items()
        ),
        Section("Learning curves", _pictures(("curves",), setting, pictures)),
        Section("How the runs are distributed", _pictures(("profiles",), setting, pictures)),
        Section("Which one is better", _improvements(findings, setting, pictures)),
        Section("How fast they learn", _pictures(("sample_efficiency", "wall_clock"), setting, pictures)),
        Section("What the numbers mean", (Bullets(tuple(meaning(setting))),)),
        *([Section("What counts as 0 and as 1", (_scales(findings),))] if setting.scored else []),
        Section("Settings", (_settings(results),)),
        Section("How to do it again", _provenance(setting)),
    ]
    return Document(
        title=f"{where}: {thousands(setting.timesteps)} steps, {count(len(setting.seeds), 'seed')}",
        lead=tuple(_lead(findings, setting)),
        sections=tuple(section for section in sections if section.blocks),
    )


def _lead(findings: Findings, setting: Setting) -> list[Block]:
    """What changes how everything else is read: failures, and too few seeds."""
    blocks: list[Block] = []
    failures = [
        f"{s.label} on {env_id}, seed {seed}: {error}"
        for env_id, summaries in findings.summaries.items()
        for s in summaries
        for seed, error in s.errors.items()
    ]
    if failures:
        blocks += [
            f"{count(len(failures), 'run')} failed and gave no return. The same command tries again.",
            Bullets((*failures,)),
        ]
    if 1 < len(setting.seeds) < FEW_SEEDS:
        blocks.append(
            f"{len(setting.seeds)} seeds are few: a bootstrap interval never leaves the range of what was measured (with 3 "
            "seeds in one environment it is that range, and covers the true mean in about 75 % of cases, not 95 %). It is a "
            "lower bound of the uncertainty."
        )
    if len(setting.seeds) == 1:
        blocks.append("One seed says nothing about the spread: there are no intervals, and differences may be luck.")
    return blocks


def _aggregates(findings: Findings, setting: Setting, pictures: Collection[str]) -> tuple[Block, ...]:
    if not findings.aggregates:
        return ("No algorithm has a seed that finished in every environment, so there is nothing to sum up.",)
    names = list(findings.aggregates[0].estimates)
    rows = [
        (a.label, *(_interval(a.estimates[name], 3) for name in names), f"{len(a.seeds)} of {len(setting.seeds)}")
        for a in findings.aggregates
    ]
    missing = [label for label in setting.algorithms if label not in [a.label for a in findings.aggregates]]
    rows += [(label, *["–"] * len(names), f"0 of {len(setting.seeds)}") for label in missing]
    table = Table(("algorithm", *names, "seeds that finished everywhere"), tuple(rows))
    return (table, *_pictures(("aggregates",), setting, pictures))


def _environment(summaries: Sequence[Summary], env_id: str, setting: Setting) -> Table:
    threshold = setting.thresholds.get(env_id)
    header = ["algorithm", "final return [95 % interval]", "interquartile mean"]
    header += [f"steps to {threshold:g}"] if threshold is not None else []
    rows = [_row(summary, threshold, setting) for summary in summaries]
    return Table((*header, "frames per second", "hyperparameters"), tuple(rows))


def _row(s: Summary, threshold: float | None, setting: Setting) -> tuple[str, ...]:
    if s.n_finished == 0:
        return (s.label, "every run failed", "–", *(["–"] if threshold is not None else []), "–", s.source)
    total = len(setting.seeds)
    failed = f", of {s.n_finished} of {count(total, 'run')}: the others failed" if s.errors else ""
    cells = [f"{_interval(s.mean, 1)}{failed}", _interval(s.interquartile_mean, 1)]
    if threshold is not None:
        steps = s.steps_to_threshold
        median = f"not by {thousands(setting.timesteps)}" if steps is None else thousands(steps)
        cells.append(f"{median} ({s.reached} of {count(total, 'seed')} reached it)")
    return (s.label, *cells, thousands(s.frames_per_second), s.source)


def _improvements(findings: Findings, setting: Setting, pictures: Collection[str]) -> tuple[Block, ...]:
    if not findings.improvements:
        return ()
    rows = tuple((i.first, i.second, _interval(i.probability, 2)) for i in findings.improvements)
    table = Table(("algorithm", "compared with", "probability of improvement [95 % interval]"), rows)
    return (table, *_pictures(("improvement",), setting, pictures))


def _pictures(names: Sequence[str], setting: Setting, drawn: Collection[str]) -> tuple[Block, ...]:
    return tuple(Picture(name, picture_caption(name, setting)) for name in names if name in drawn)


def _scales(findings: Findings) -> Table:
    rows = tuple(
        (env_id, f"{scale.low:.1f}", scale.low_is, f"{scale.high:.1f}", scale.high_is)
        for env_id, scale in findings.scales.items()
    )
    return Table(("environment", "return that is 0", "why", "return that is 1", "why"), rows)


def _settings(results: Sequence[RunResult]) -> Table:
    configs = {(r.env_id, r.label): r for r in reversed(results)}
    rows = [(r.env_id, r.label, r.source, _written(r.config)) for r in reversed(configs.values())]
    return Table(("environment", "algorithm", "from", "settings"), tuple(rows))


def _written(config: dict[str, object]) -> str:
    """A run's settings in one line, as a hyperparameter file has them; what is empty is left out."""
    shown = {name: value for name, value in config.items() if name not in ("source", "n_timesteps", "hyperparameters")}
    hyperparameters = config.get("hyperparameters")
    if shown.get("normalize") == {}:
        shown["normalize"] = True  # VecNormalize as it is: not the same as none
    shown |= hyperparameters if isinstance(hyperparameters, dict) else {}
    return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in (None, {}, (), []))


def _provenance(setting: Setting) -> tuple[Block, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
    seeds = f"Seeds {', '.join(map(str, setting.seeds))}."
    return tuple(block for block in (Code(setting.command), f"{seeds} Measured with {versions}.") if block)


def _interval(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f} (no interval from one seed)"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
