"""
Arranges the metrics of a run in panels: those in alarm first, then by theme, related metrics in one panel.

Each panel shows the healthy range and the line beyond which a rule is in alarm, if there are any.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sb3_pgx.diagnostics.conditions import Series
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.pages.charts import Level, Line, Lines
from sb3_pgx.pages.looks import Look

LOG_FROM = 100.0  # ratio of the largest to the smallest value from which on an axis is logarithmic
LOG_SPAN = 1e6  # largest such ratio that is shown: below, values are practically 0, and would flatten all others


@dataclass(frozen=True)
class Family:
    """
    Metrics that share a panel.

    :param title: what they measure
    :param unit: unit of the y axis
    :param metrics: names from :data:`~sb3_pgx.diagnostics.METRICS`
    """

    title: str
    unit: str
    metrics: tuple[str, ...]


THEMES: dict[str, tuple[Family, ...]] = {
    "Returns": (
        Family("return of an episode", "return", ("training_return", "true_return")),
        Family("targets of the critic", "return", ("return_mean", "return_min", "return_max")),
        Family("spread of the critic's targets", "return", ("return_std",)),
        Family("relative spread of the critic's targets", "ratio", ("return_spread",)),
        Family("rewards", "reward", ("reward_mean", "reward_min", "reward_max")),
        Family("spread of the rewards", "reward", ("reward_std", "reward_size")),
    ),
    "Change of the policy per update": (
        Family("KL(old‖new), mean", "nats", ("kl", "approx_kl", "approx_kl_k1", "approx_kl_k2")),
        Family("KL(old‖new), maximum over states", "nats", ("kl_max",)),
        Family("ratios outside the clip range", "share", ("clip_fraction",)),
        Family("ratio of new to old probability", "ratio", ("ratio_mean", "ratio_min", "ratio_max")),
        Family("spread of the ratios", "ratio", ("ratio_std",)),
        Family("effective sample size", "share", ("effective_sample_size",)),
        Family("error of the ratio before the first step", "ratio", ("initial_ratio_error",)),
        Family("relative change of the parameters", "ratio", ("parameter_change",)),
    ),
    "Exploration": (
        Family("entropy", "nats", ("entropy",)),
        Family("entropy relative to its maximum", "share", ("relative_entropy",)),
        Family("standard deviation of the actions", "units of the action", ("std_mean", "std_min", "std_max")),
        Family("actions out of bounds", "share", ("actions_clipped",)),
        Family("actions at their bounds", "share", ("saturated_actions",)),
        Family("temperature", "return per nat", ("temperature",)),
        Family("temperature relative to the spread of the critics' targets", "per nat", ("relative_temperature",)),
        Family("entropy below its target", "nats per component", ("entropy_deficit",)),
        Family("valid actions", "share", ("valid_actions",)),
    ),
    "Critic": (
        Family("explained variance", "share", ("explained_variance", "explained_variance_after")),
        Family("error and change of the values", "standard deviations", ("value_error", "value_lag")),
        Family("gain from the critic's memory", "share", ("memory_gain",)),
        Family("values of stored actions", "return", ("q_mean", "q_min", "q_max")),
        Family("spread of the values of stored actions", "return", ("q_std",)),
        Family("targets outside of the support", "probability", ("clipped_returns",)),
        Family("effective actions in a soft value", "actions", ("value_samples",)),
        Family("largest value relative to the largest possible return", "ratio", ("q_excess",)),
        Family("error of the critics, lag of the target networks", "standard deviations", ("td_error", "target_lag")),
        Family("transitions sampled per environment step", "transitions", ("samples_per_step",)),
    ),
    "Advantages and gradients": (
        Family("advantages", "return", ("advantage_mean", "advantage_min", "advantage_max")),
        Family("spread of the advantages", "return", ("advantage_std", "advantage_scale")),
        Family("rows over which advantages are normalised", "rows", ("normalised_rows",)),
        Family("gradient norm", "norm", ("grad_norm", "grad_norm_max")),
        Family("clipped gradients", "share", ("grad_clipped",)),
        Family("gradient noise scale", "rows", ("gradient_noise_scale",)),
        Family("noise scale relative to the batch", "ratio", ("noise_to_batch",)),
    ),
    "Network and observations": (
        Family("units without effect", "share", ("saturated_units", "dormant_units")),
        Family("largest observation", "units of the observation", ("observation_max",)),
        Family("constant observations", "share", ("constant_observations",)),
        Family("time limits that look like terminations", "share", ("unflagged_time_limits",)),
    ),
    "Time": (Family("where the time goes", "share", ("time_environment", "time_acting", "time_update")),),
}


def panels_of(
    families: Iterable[Family], steps: Sequence[float], series: Series, states: Sequence[RuleState]
) -> tuple[Lines, ...]:
    """
    Return a panel per family that has a finite number.

    :param families: the families, such as those of a theme
    :param steps: environment steps of each measured update
    :param series: metrics of each measured update
    :param states: the rules, applied to the run
    """
    measured = ((family, [name for name in family.metrics if _has_number(series, name)]) for family in families)
    return tuple(_panel(family, names, steps, series, states) for family, names in measured if names)


def alarmed_metrics(states: Sequence[RuleState]) -> list[str]:
    """Return the metrics whose rules were in alarm, the most frequent alarms first."""
    return list(dict.fromkeys(state.rule.metric for state in sorted(states, key=lambda s: -s.alarms) if state.alarms))


def alarmed_families(states: Sequence[RuleState]) -> list[Family]:
    """Return the families with a metric that was in alarm, the most frequent alarms first."""
    families = [family for theme in THEMES.values() for family in theme]
    return list(dict.fromkeys(f for metric in alarmed_metrics(states) for f in families if metric in f.metrics))


def _panel(family: Family, names: Sequence[str], steps: Sequence[float], series: Series, states: Sequence[RuleState]) -> Lines:
    of_family = [state for state in states if state.rule.metric in names]
    alarmed = [state for state in of_family if state.alarms]
    values = [x for name in names for x in series[name] if math.isfinite(x)]
    judged = {state.rule.metric for state in of_family if state.measured}  # others may have a negative estimate now and then
    decisive = [x for name in judged or names for x in series[name] if math.isfinite(x)] or values
    log_y = min(decisive) > 0 and max(decisive) > LOG_FROM * min(decisive)
    values = [x for x in values if x > 0 or not log_y]
    healthy = next((state.rule.healthy for state in of_family if state.rule.healthy is not None), None)
    lines = tuple(Line(name, steps, series[name], Look(i)) for i, name in enumerate(names))
    low, high = min(values), max(values)
    levels = [level for state in alarmed or of_family for level in _levels(state, series)]
    reach = max(high - low, 0.05 * abs(high)) or 0.06
    if not alarmed:  # a line far away would hide the curve
        levels = [level for level in levels if low - reach <= level.value <= high + reach]
    levels = [level for level in levels if level.value > 0 or not log_y]
    low, high = min([low, *(x.value for x in levels)]), max([high, *(x.value for x in levels)])
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 0.06
    if log_y:
        low = max(low, min([high / LOG_SPAN, *(x.value for x in levels)]))
    y_range = (low / 1.3, high * 1.3) if log_y else (low - margin, high + margin)
    mark = bool(alarmed)
    title = family.title if len(names) > 1 else f"{family.title} ({names[0]})"
    return Lines(
        title, "environment steps", family.unit, lines, _named_once(levels), healthy, y_range=y_range, log_y=log_y, marked=mark
    )


def _levels(state: RuleState, series: Series) -> list[Level]:
    levels = getattr(state.rule.condition, "levels", None)  # conditions of users may lack it
    values = () if levels is None else levels(series[state.rule.metric])
    return [Level(value, f"alarm {state.rule.condition}", alarm=True) for value in values]


def _named_once(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Let the highest of the levels with the same name keep it. They may be close together."""
    highest = {level.name: level for level in sorted(levels, key=lambda level: level.value)}
    return tuple(level if level is highest[level.name] else replace(level, name="") for level in levels)


def _has_number(series: Series, name: str) -> bool:
    return any(math.isfinite(x) for x in series.get(name, ()))
