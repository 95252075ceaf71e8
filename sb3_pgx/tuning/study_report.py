"""Writes the results of a study: the best settings as a hyperparameter file, pictures, and a self-contained web page."""

import html
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.core.files import replacing, write_text
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.search_spaces import arguments_of, names_of
from sb3_pgx.tuning import trial_records as records
from sb3_pgx.tuning.config_file import write_config
from sb3_pgx.tuning.tuning_plan import PAGE_HEAD, TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

PAGE = (
    PAGE_HEAD
    + """{title}</title><style>
body {{ font-family: sans-serif; margin: 2em; }} table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ border: 1px solid #ccc; padding: 3px 8px; text-align: left; }} pre {{ background: #f4f4f4; padding: 1em; }}
</style></head><body><h1>{title}</h1><p>{summary}</p>{best}{figures}<h2>Trials</h2>{table}</body></html>
"""
)
SCORE = "mean return over seeds"
WORDS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class StudySummary:
    """
    The results of a study so far.

    :param trials: its trials; a trial that was interrupted and started again counts once
    :param best: the best trial that was trained to the end; ``None`` if there is none
    :param config: the settings of the best trial; ``None`` if there is none
    :param config_file: path of the hyperparameter file with the best settings
    :param report: path of the report
    """

    trials: "list[FrozenTrial]"
    best: "FrozenTrial | None"
    config: RunConfig | None
    config_file: Path
    report: Path

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
    Write ``best/<algorithm>.yml``, ``report.html``, and Optuna's figures as PNG: optimization history, parameter importances
    and parallel coordinates. Figures without data are left out, and nothing is written if no trial is finished.

    :param summary: summary of the study
    :param study: the study, for Optuna's figures
    :param plan: the plan that it belongs to
    :return: the files
    """
    if summary.best is None or summary.config is None:
        return []
    write_config(summary.config_file, plan.env_id, summary.config, _comment(summary, plan))
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's matplotlib figures are experimental
        warnings.simplefilter("ignore", UserWarning)  # about parameters that are the same in every trial
        pictures = _save_pictures(summary, study, plan.output)
        _write_page(summary, study, plan)
    return [summary.config_file, summary.report, *pictures]


def _comment(summary: StudySummary, plan: TuningPlan) -> str:
    assert summary.best is not None
    seeds = ", ".join(map(str, plan.seeds))
    return (
        f"{plan.peer.label}: trial {summary.best.number} of {len(summary.trials)} in the study {plan.study_name}.\n"
        f"Mean return over seeds {seeds} after {plan.timesteps} steps: {summary.best.value:.1f}.\n"
        "This score is biased because these seeds chose the settings: evaluate on others with sb3-pgx compare --configs."
    )


def _figures(summary: StudySummary) -> list[str]:
    """Return the names of Optuna's figures for which there is data."""
    several = sum(trial.state.name == "COMPLETE" for trial in summary.trials) > 1
    return ["optimization_history", *(["param_importances", "parallel_coordinate"] if several else [])]


def _save_pictures(summary: StudySummary, study: "optuna.Study", folder: Path) -> list[Path]:
    import matplotlib
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization import matplotlib as visualization

    paths = []
    for name in _figures(summary):
        with matplotlib.rc_context():  # Optuna changes the style of the whole process
            figure: Any = getattr(visualization, f"plot_{name}")(study, target_name=SCORE).figure
            figure.set_size_inches(20 if name == "parallel_coordinate" else 8, 5)
            if name == "parallel_coordinate":
                figure.axes[0].tick_params(axis="x", labelrotation=30)
            elif name == "optimization_history":
                figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
            paths.append(folder / f"{name}.png")
            with replacing(paths[-1]) as file:
                figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
            plt.close(figure)
    return paths


def _write_page(summary: StudySummary, study: "optuna.Study", plan: TuningPlan) -> None:
    from optuna import visualization

    figures = {name: getattr(visualization, f"plot_{name}")(study, target_name=SCORE) for name in _figures(summary)}
    if plan.in_lock_step:
        figures["intermediate_values"] = visualization.plot_intermediate_values(study)
        figures["intermediate_values"].update_xaxes(title="environment steps")
    parts = [figure.to_html(full_html=False, include_plotlyjs=i == 0) for i, figure in enumerate(figures.values())]
    page = PAGE.format(
        title=html.escape(plan.title),
        summary=html.escape(summary.text).replace("\n", "<br>"),
        best=f"<pre>{html.escape(summary.config_file.read_text(encoding='utf-8'))}</pre>",
        figures="".join(parts),
        table=_table(summary, plan),
    )
    write_text(summary.report, page)


def _table(summary: StudySummary, plan: TuningPlan) -> str:
    names = names_of(plan.algorithm, plan.config.policy)
    head = ["trial", "state", "score", *(f"seed {seed}" for seed in plan.seeds), *names, "failure"]
    rows = [_cells(head, tag="th")]
    for trial in summary.trials:
        seeds = records.finished_seeds(trial)
        returns = [f"{seeds[seed].mean_return:.1f}" if seed in seeds else "" for seed in plan.seeds]
        score = f"{trial.value:.1f}" if trial.state.name == "COMPLETE" else ""
        values = [_short(trial.params.get(name, "")) for name in names]
        state = WORDS[trial.state.name] + (", starting configuration" if records.DEFAULT in trial.user_attrs else "")
        rows.append(_cells([str(trial.number), state, score, *returns, *values, trial.user_attrs.get(records.ERROR, "")]))
    return f"<table>{''.join(rows)}</table>"


def _cells(texts: list[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
