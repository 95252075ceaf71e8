"""Composes the charts of a study's report."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sb3_pgx.experiments.number_format import quantity
from sb3_pgx.pages.charts import Chart, Dot, Dots, Line, Lines, Scatter
from sb3_pgx.pages.looks import Look
from sb3_pgx.tuning.readable_parameters import readable_names, readable_values
from sb3_pgx.tuning.tuning_plan import TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

SCORE = "mean return over seeds"
LOG_FROM = 30.0  # ratio of the largest to the smallest value from which on an axis is logarithmic


def study_charts(trials: "Sequence[FrozenTrial]", study: "optuna.Study", plan: TuningPlan) -> list[Chart]:
    """
    Return the charts for which there is data: history, importances, the score over each parameter, and learning curves.

    :param trials: the trials of the study that count
    :param study: the study, for Optuna's importances
    :param plan: the plan that it belongs to
    """
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    charts = [_history(complete)]
    if len(complete) > 1:
        charts += [*_importances(study, complete, plan), _slices(complete, plan)]
    return [*charts, *_learning_curves(trials, plan)]


def _history(complete: "Sequence[FrozenTrial]") -> Chart:
    numbers, scores = [float(t.number) for t in complete], [_score(t) for t in complete]
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    lines = Line("score of the trial", numbers, scores, Look(0)), Line("best so far", numbers, best, Look(1))
    caption = f"Score of {quantity(len(complete), 'finished trial')}, in the order in which they started."
    return Chart("optimization_history", caption, (Lines("Optimisation history", "trial", SCORE, lines),))


def _importances(study: "optuna.Study", complete: "Sequence[FrozenTrial]", plan: TuningPlan) -> list[Chart]:
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # about parameters that are the same in every trial
        try:
            found = get_param_importances(study)
        except (RuntimeError, ValueError):  # all scores are equal, or no parameter differs
            return []
    names, n = readable_names(plan), quantity(len(complete), "finished trial")
    dots = tuple(Dot(names.get(name, name), value, math.nan, math.nan, Look(0)) for name, value in found.items())
    caption = (
        f"Optuna's estimate from {n}, without an interval: the share of the score's variation that each parameter explains. "
        "Importances from fewer than about 50 trials change much from study to study."
    )
    panel = Dots(f"Importance of the parameters ({n})", "importance", dots, x_range=(0.0, 1.02 * max(found.values()) or 1.0))
    return [Chart("param_importances", caption, (panel,))]


def _slices(complete: "Sequence[FrozenTrial]", plan: TuningPlan) -> Chart:
    values = [readable_values(trial, plan) for trial in complete]
    scores = [_score(trial) for trial in complete]
    best = scores.index(max(scores))
    names = [f"trial {trial.number}" for trial in complete]
    panels = []
    for parameter in dict.fromkeys(name for found in values for name in found):
        kept = [i for i, found in enumerate(values) if parameter in found]
        texts = [str(values[i][parameter]) for i in kept]
        x, log_x = _axis([values[i][parameter] for i in kept])
        labels = [f"{names[i]}, {parameter} {text}" for i, text in zip(kept, texts, strict=True)]
        mark = kept.index(best) if best in kept else None
        panels.append(Scatter(parameter, parameter, SCORE, x, [scores[i] for i in kept], labels, mark, log_x))
    caption = f"Score of {quantity(len(complete), 'finished trial')} over each parameter. The star is the best trial."
    return Chart("slices", caption, tuple(panels))


def _axis(values: Sequence[Any]) -> tuple[list[float] | list[str], bool]:
    """Return coordinates, as names if a value is no number, and whether the axis should be logarithmic."""
    plain = [value.removeprefix("lin_") if isinstance(value, str) else value for value in values]
    try:
        numbers = [float(value) for value in plain if not isinstance(value, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) < len(values):
        return [str(value) for value in values], False
    return numbers, min(numbers) > 0 and max(numbers) > LOG_FROM * min(numbers)


def _learning_curves(trials: "Sequence[FrozenTrial]", plan: TuningPlan) -> list[Chart]:
    """Return the learning curve of the best trial with those of the others behind it, if trials are pruned at its points."""
    if not plan.in_lock_step:
        return []
    curves = {t.number: _points(t) for t in trials if t.intermediate_values}
    complete = [t for t in trials if t.state.name == "COMPLETE" and t.number in curves]
    if not complete:
        return []
    best = max(complete, key=_score)
    others = tuple(points for number, points in curves.items() if number != best.number)
    line = Line(f"trial {best.number}", *curves[best.number], Look(0), runs=others)
    caption = (
        f"Mean return over seeds during training: the best trial, and {quantity(len(others), 'other trial')} as thin lines."
    )
    return [Chart("intermediate_values", caption, (Lines("Learning curves", "environment steps", SCORE, (line,)),))]


def _points(trial: "FrozenTrial") -> tuple[list[float], list[float]]:
    return [float(step) for step in trial.intermediate_values], [*trial.intermediate_values.values()]


def _score(trial: "FrozenTrial") -> float:
    assert trial.value is not None
    return trial.value
