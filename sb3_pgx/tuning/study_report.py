"""Writes the results of a study: the best settings as a hyperparameter file, pictures, and a self-contained web page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.core.files import write_text
from sb3_pgx.experiments.runs import versions
from sb3_pgx.pages.blocks import Cell, Code, Document, Note, Number, Section, Table
from sb3_pgx.pages.charts import Chart
from sb3_pgx.pages.html import as_html
from sb3_pgx.pages.pictures import save_picture
from sb3_pgx.pages.provenance import origin
from sb3_pgx.settings.config_file import write_config
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.search_spaces import arguments_of
from sb3_pgx.tuning import trial_records as records
from sb3_pgx.tuning.readable_parameters import readable_names, readable_values
from sb3_pgx.tuning.study_charts import study_charts
from sb3_pgx.tuning.tuning_plan import TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

BIASED = "This score is biased because these seeds chose the settings: evaluate on others with sb3-pgx compare --configs."
TITLES = {
    "optimization_history": "How the search went",
    "param_importances": "Which parameters matter",
    "slices": "Score over each parameter",
    "intermediate_values": "Learning curves",
}
WORDS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class StudySummary:
    """
    The results of a study so far.

    :param trials: trials of the study; a trial that was interrupted and started again counts once
    :param best: the best trial that was trained to the end; ``None`` if there is none
    :param config: the settings of the best trial; ``None`` if there is none
    :param config_file: path of the hyperparameter file with the best settings
    :param report: path of the report
    :param unwritten: the error that kept a part of the results from being written; ``None`` if all of them were written
    """

    trials: "list[FrozenTrial]"
    best: "FrozenTrial | None"
    config: RunConfig | None
    config_file: Path
    report: Path
    unwritten: OSError | None = None

    @property
    def default_score(self) -> float | None:
        """Score of the configuration that the search started from; ``None`` if it was pruned, failed, or is not finished."""
        return next((trial.value for trial in self._of("COMPLETE") if records.DEFAULT in trial.user_attrs), None)

    @property
    def failures(self) -> list[str]:
        """The reason of each failed trial."""
        return [f"trial {trial.number}: {trial.user_attrs.get(records.ERROR)}" for trial in self._of("FAIL")]

    def _of(self, state: str) -> "list[FrozenTrial]":
        return [trial for trial in self.trials if trial.state.name == state]

    @property
    def text(self) -> str:
        """A summary of the study in a few sentences."""
        counts = [f"{len(self._of(state))} {word}" for state, word in WORDS.items() if self._of(state)]
        lines = [f"{len(self.trials)} trials: {', '.join(counts)}."]
        if self.best is not None:
            seeds = ", ".join(f"{r.mean_return:.1f}" for r in records.finished_seeds(self.best).values())
            lines.append(f"Best: trial {self.best.number} with {self.best.value:.1f}, the mean over its seeds ({seeds}).")
        if self.default_score is not None:
            lines.append(f"The starting configuration: {self.default_score:.1f}.")
        if self.failures:
            lines.append(f"Failed: {'; '.join(self.failures)}.")
        return "\n".join(lines)


def summarize_study(study: "optuna.Study", plan: TuningPlan) -> StudySummary:
    """
    Summarise a study.

    :param study: the study, finished or not
    :param plan: the plan that it belongs to
    """
    counted = records.counted_trials(study)
    complete = [trial for trial in counted if trial.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: trial.value, default=None)  # type: ignore[arg-type, return-value]
    config = None
    if best is not None:
        around = plan.config.n_envs, plan.config.policy, records.longest_rollout(best, plan)
        hyperparameters = arguments_of(plan.algorithm, best.params, *around)
        config = plan.config_with(hyperparameters, f"trial {best.number} of {plan.study_name}")
    return StudySummary(counted, best, config, plan.config_file, plan.report)


def write_study_report(summary: StudySummary, study: "optuna.Study", plan: TuningPlan) -> list[Path]:
    """
    Write ``best/<algorithm>.yml``, ``report.html``, and its charts as PNG. Charts without data are left out, and nothing is
    written if no trial is finished.

    :param summary: summary of the study
    :param study: the study, for Optuna's importances
    :param plan: the plan that it belongs to
    :return: the files
    """
    if summary.best is None or summary.config is None:
        return []
    write_config(summary.config_file, plan.env_id, summary.config, _comment(summary, plan))
    charts = study_charts(summary.trials, study, plan)
    pictures = [plan.output / f"{chart.name}.png" for chart in charts]
    for chart, path in zip(charts, pictures, strict=True):
        save_picture(chart, path)
    write_text(summary.report, as_html(_document(summary, charts, plan)))
    return [summary.config_file, summary.report, *pictures]


def _comment(summary: StudySummary, plan: TuningPlan) -> str:
    assert summary.best is not None
    seeds = ", ".join(map(str, plan.seeds))
    return (
        f"{plan.peer.label}: trial {summary.best.number} of {len(summary.trials)} in the study {plan.study_name}.\n"
        f"Mean return over seeds {seeds} after {plan.timesteps} steps: {summary.best.value:.1f}.\n"
        f"{BIASED}"
    )


def _document(summary: StudySummary, charts: list[Chart], plan: TuningPlan) -> Document:
    best = Code(summary.config_file.read_text(encoding="utf-8"))
    packages = ", ".join(f"{name} {version}" for name, version in versions(plan.env_id).items())
    return Document(
        title=plan.title,
        summary=summary.text,
        lead=(Note(BIASED),),
        sections=(
            Section("Best settings", (best,)),
            *(Section(TITLES[chart.name], (chart,)) for chart in charts),
            Section("Trials", (_table(summary, plan),)),
            Section("Where this report comes from", (f"Measured with {packages}. {origin()}",)),
        ),
    )


def _table(summary: StudySummary, plan: TuningPlan) -> Table:
    names = list(dict.fromkeys(name for name in readable_names(plan).values() if not name.startswith("schedule of")))
    header = ("trial", "state", "score", *(f"seed {seed}" for seed in plan.seeds), *names, "failure")
    rows: list[tuple[Cell, ...]] = []
    for trial in summary.trials:
        seeds, values = records.finished_seeds(trial), readable_values(trial, plan)
        returns = [_number(seeds[seed].mean_return) if seed in seeds else "" for seed in plan.seeds]
        score: Cell = _number(trial.value) if trial.state.name == "COMPLETE" and trial.value is not None else ""
        state = WORDS[trial.state.name] + (", starting configuration" if records.DEFAULT in trial.user_attrs else "")
        settings = [_short(values[name]) if name in values else "" for name in names]
        number = Number(trial.number, str(trial.number))
        rows.append((number, state, score, *returns, *settings, trial.user_attrs.get(records.ERROR, "")))
    return Table(header, tuple(rows))


def _number(value: float) -> Number:
    return Number(value, f"{value:.1f}")


def _short(value: Any) -> Cell:
    if isinstance(value, str) and value.startswith("lin_"):
        return f"lin_{float(value.removeprefix('lin_')):.4g}"
    return Number(value, f"{value:.4g}") if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
