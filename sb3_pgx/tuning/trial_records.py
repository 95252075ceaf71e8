"""
The trials of a study on behalf of one machine among several: which is next, whose process has died, what came of it.

Everything is kept in the trial itself, wherever the study is stored: what its finished seeds gave, who is at work on it and
when that was last heard of. A trial whose machine or process has gone is put down as failed, and one with the same parameters
and with its finished seeds is queued in its place.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from sb3_pgx.settings.search_spaces import names_of, params_of
from sb3_pgx.tuning.process_identity import has_ended, this_process
from sb3_pgx.tuning.trial_runs import SeedResult
from sb3_pgx.tuning.tuning_plan import TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

HEARTBEAT_SECONDS = 30.0
OVERDUE_SECONDS = 60.0
DEAD_SECONDS = 180.0  # after which a machine is taken for dead; clocks of machines that share a study differ by less
OWNER, INTERRUPTED, INSTEAD_OF, SURPLUS, ERROR, DETAILS = "owner", "interrupted", "instead of", "surplus", "error", "traceback"
HYPERPARAMETERS, DEFAULT, SEED = "hyperparameters", "configuration as it is", "seed "


def enqueue_default(study: "optuna.Study", plan: TuningPlan) -> None:
    """
    Makes the plan's own configuration the first trial: whatever is found is at least as good. Where the search space does not
    hold all of it, the first trial is as near as can be, and a note says so.
    """
    if study.get_trials(deepcopy=False):
        return
    params = params_of(plan.algorithm, plan.config)
    outside = [name for name in names_of(plan.algorithm, plan.config.policy) if name not in params]
    if outside:
        print(f"{plan.config.source} is outside of the search space with {', '.join(outside)}, which the first trial samples")
    study.enqueue_trial(params, user_attrs={} if outside else {DEFAULT: True})


def longest_rollout(trial: "Trial | FrozenTrial", plan: TuningPlan) -> int | None:
    """In environment steps: a training's, so that it comes to an update; None for the configuration, which stays as it is."""
    return None if DEFAULT in trial.user_attrs else plan.timesteps


def next_trial(study: "optuna.Study", plan: TuningPlan) -> "Trial | None":
    """
    :param study: may be shared with other machines
    :param plan: how many trials there are to be in all
    :return: a trial that nobody else has; None where there are enough of them
    """
    from optuna.trial import TrialState

    while len(counted_trials(study)) < plan.trials or study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        trial = study.ask()
        record_heartbeat(trial)
        if _is_needed(study, plan, trial):
            return trial
        with ignoring_takeover():
            trial.set_user_attr(SURPLUS, True)
            study.tell(trial, state=TrialState.FAIL)
    return None


def _is_needed(study: "optuna.Study", plan: TuningPlan, trial: "Trial") -> bool:
    """False for one that another machine's makes superfluous, which asked, or found an interrupted trial, at the same time."""
    numbers = [other.number for other in counted_trials(study)]
    enough = sum(number < trial.number for number in numbers) >= plan.trials
    return trial.number in numbers and (not enough or INSTEAD_OF in trial.user_attrs)


def counted_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials of the study, each interrupted one only once: in its place counts the first that was queued."""
    trials, replaced = [], set[int | None]()
    for trial in study.get_trials(deepcopy=False):
        instead_of = trial.user_attrs.get(INSTEAD_OF)
        if SURPLUS in trial.user_attrs or (instead_of is not None and instead_of in replaced):
            replaced.add(trial.number)  # nothing counts in its place, either
        elif INTERRUPTED not in trial.user_attrs:
            trials.append(trial)
        replaced.add(instead_of)
    return trials


def record_heartbeat(trial: "Trial") -> None:
    """Says that this process is at work on the trial."""
    trial.set_user_attr(OWNER, this_process())


def active_processes(study: "optuna.Study") -> list[str]:
    """Who is: process and machine."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    owners = [trial.user_attrs[OWNER] for trial in running if OWNER in trial.user_attrs and _is_alive(trial)]
    return sorted({f"process {owner['pid']} on {owner['host']}" for owner in owners})


def store_seed(trial: "Trial", finished: SeedResult) -> None:
    """Stores a finished seed: it is not trained again, whatever happens to this process."""
    trial.set_user_attr(f"{SEED}{finished.seed}", asdict(finished))


def finished_seeds(trial: "Trial | FrozenTrial") -> dict[int, SeedResult]:
    """What is stored of a trial's seeds."""
    results = [SeedResult(**value) for name, value in trial.user_attrs.items() if name.startswith(SEED)]
    return {finished.seed: finished for finished in sorted(results, key=lambda finished: finished.seed)}


def mean_score(trial: "Trial | FrozenTrial") -> float:
    """
    The mean over seeds of the mean return of the final policy's episodes. Not the interquartile mean: settings with which one
    training of three fails are not to be had.
    """
    means = [finished.mean_return for finished in finished_seeds(trial).values()]
    return sum(means) / len(means)


def mark_failed(study: "optuna.Study", trial: "Trial", reason: str, details: str = "") -> None:
    """Puts a trial down as failed, with the reason."""
    from optuna.trial import TrialState

    trial.set_user_attr(ERROR, reason)
    trial.set_user_attr(DETAILS, details)
    study.tell(trial, state=TrialState.FAIL)


def requeue_abandoned(study: "optuna.Study") -> list[int]:
    """
    Queues again what nobody is at work on any more.

    :return: numbers of the trials that were found so
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    dead = [trial.number for trial in trials if trial.state == TrialState.RUNNING and not _is_alive(trial)]
    found = [number for number in dead if interrupt(study, number)]
    # Whoever did that may have been killed in the middle of it.
    replaced = {trial.user_attrs.get(INSTEAD_OF) for trial in study.get_trials(deepcopy=False)}
    for trial in trials:
        if trial.state == TrialState.FAIL and INTERRUPTED in trial.user_attrs and trial.number not in replaced:
            enqueue_again(study, trial)
    return found


def interrupt(study: "optuna.Study", number: int) -> bool:
    """Ends a trial under way, and queues one in its place. Returns False where another machine has done so."""
    from optuna.trial import TrialState

    trial = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    with ignoring_takeover():
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(number, state=TrialState.FAIL)
        enqueue_again(study, trial)
        return True
    return False


def is_running(study: "optuna.Study", trial: "Trial") -> bool:
    """Whether the trial is still this machine's: another one has given it up if this one seemed dead."""
    return any(t.number == trial.number and not t.state.is_finished() for t in study.get_trials(deepcopy=False))


@contextlib.contextmanager
def ignoring_takeover() -> Iterator[None]:
    """Around what is said of a trial that another machine may have given up, since this one seemed dead, or has."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError:
        pass
    except ValueError as error:
        if "Cannot tell" not in str(error):
            raise


def enqueue_again(study: "optuna.Study", trial: "FrozenTrial") -> None:
    # The process may have been killed before every parameter was suggested.
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    kept = {name: value for name, value in trial.user_attrs.items() if name.startswith(SEED) or name == DEFAULT}
    study.enqueue_trial(params, user_attrs={**kept, INSTEAD_OF: trial.number})


def silent_trials(study: "optuna.Study") -> list[int]:
    """Numbers of the trials whose machine has missed a beat: soon it will be heard of again, or be taken for dead."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    return [trial.number for trial in running if _silent_seconds(trial) > OVERDUE_SECONDS]


def _is_alive(trial: "FrozenTrial") -> bool:
    return _silent_seconds(trial) <= DEAD_SECONDS and not has_ended(trial.user_attrs.get(OWNER, {}))


def _silent_seconds(trial: "FrozenTrial") -> float:
    asked_at = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - trial.user_attrs.get(OWNER, {}).get("at", asked_at)
