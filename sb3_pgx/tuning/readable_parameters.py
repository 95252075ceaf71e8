"""Shows the parameters of a trial as a person writes them: ``gae_lambda=0.95`` instead of ``one_minus_gae_lambda=0.05``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_pgx.settings.search_spaces import arguments_of, names_of, search_space
from sb3_pgx.tuning.trial_records import longest_rollout
from sb3_pgx.tuning.tuning_plan import TuningPlan

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def readable_names(plan: TuningPlan) -> dict[str, str]:
    """Return the name of the constructor's argument that each parameter of a trial decides, by the parameter's name."""
    arguments = [getattr(dimension, "argument") for dimension in search_space(plan.algorithm, plan.config.policy)]  # noqa: B009
    names = {}
    for parameter in names_of(plan.algorithm, plan.config.policy):
        argument = next(a for a in arguments if parameter in (a, f"one_minus_{a}", f"{a}_pow", f"{a}_schedule"))
        names[parameter] = f"schedule of {argument}" if parameter == f"{argument}_schedule" else argument
    return names


def readable_values(trial: "FrozenTrial", plan: TuningPlan) -> dict[str, Any]:
    """
    Return what the trial trained with, by the constructor's argument. Options of the policy have the name of their value.

    :param trial: a trial of the study; empty if not all of its parameters were suggested
    :param plan: the plan of the study
    """
    names = readable_names(plan)
    if not names.keys() <= trial.params.keys():
        return {}
    around = plan.config.n_envs, plan.config.policy, longest_rollout(trial, plan)
    found: Mapping[str, Any] = arguments_of(plan.algorithm, trial.params, *around)
    return {
        name: found[name] if name in found else trial.params[parameter]
        for parameter, name in names.items()
        if not parameter.endswith("_schedule")
    }
