"""
Records the state of trials, so that several machines can share a study and interrupted trials are repeated.

Everything is stored in the trial itself, in whichever storage the study has: the results of its finished seeds, the process
that works on it, and the time of that process's last heartbeat. A trial whose machine or process has died is marked as failed,
and a new trial with the same parameters and the same finished seeds is queued in its place.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sb3_pgx.settings.search_spaces import names_of, params_of
from sb3_pgx.tuning.process_identity import AT, has_ended, is_this_process, this_process
from sb3_pgx.tuning.trial_runs import SeedResult
from sb3_pgx.tuning.tuning_plan import DEAD_SECONDS, TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

HEARTBEAT_SECONDS = 30.0
OVERDUE_SECONDS = 60.0
OWNER, INTERRUPTED, INSTEAD_OF, SURPLUS, ERROR, DETAILS = "owner", "interrupted", "instead of", "surplus", "error", "traceback"
HYPERPARAMETERS, DEFAULT, SEED = "hyperparameters", "configuration as it is", "seed "


def enqueue_default(study: "optuna.Study", plan: TuningPlan) -> None:
    """
    Make the starting configuration the first trial, so that the result is at least as good. Parameters outside of the search
    space are sampled instead, with a note.

    :param study: a study without trials; otherwise nothing happens
    :param plan: the plan that it belongs to
    """
    if study.get_trials(deepcopy=False):
        return
    params = params_of(plan.algorithm, plan.config)
    outside = [name for name in names_of(plan.algorithm, plan.config.policy) if name not in params]
    if outside:
        names = ", ".join(outside)
        print(f"{plan.config.source} is outside of the search space in {names}; the first trial samples these instead")
    study.enqueue_trial(params, user_attrs=_queued() if outside else {**_queued(), DEFAULT: True})


def longest_rollout(trial: "Trial | FrozenTrial", plan: TuningPlan) -> int | None:
    """
    Return the longest rollout for a trial, in environment steps: the length of a run, so that a run has at least one update.
    ``None`` for the starting configuration, which is not changed.
    """
    return None if DEFAULT in trial.user_attrs else plan.timesteps


def next_trial(study: "optuna.Study", plan: TuningPlan) -> "Trial | None":
    """
    Claim the next trial.

    :param study: the study, which other machines may share
    :param plan: the plan, which gives the total number of trials
    :return: a trial that no other process has; ``None`` if there are enough trials
    """
    from optuna.trial import TrialState

    while True:
        waiting = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if not waiting and len(counted_trials(study)) >= plan.trials:
            return None
        if not waiting:
            study.enqueue_trial({}, user_attrs=_queued())
        trial = study.ask()
        with ignoring_takeover():
            record_heartbeat(trial)
            if _is_needed(study, plan, trial):
                return trial
            trial.set_user_attr(SURPLUS, True)
            study.tell(trial, state=TrialState.FAIL)


def _queued() -> dict[str, Any]:
    """
    Return the attributes of a trial that is queued here. They name this process as its owner, so that it has one even if
    this process is killed between taking it and its first heartbeat, whose time is missing here.
    """
    return {OWNER: {name: value for name, value in this_process().items() if name != AT}}


def _is_needed(study: "optuna.Study", plan: TuningPlan, trial: "Trial") -> bool:
    """Return whether a new trial is needed. It is not if another machine asked for one at the same time."""
    numbers = [other.number for other in counted_trials(study)]
    enough = sum(number < trial.number for number in numbers) >= plan.trials
    return trial.number in numbers and (not enough or INSTEAD_OF in trial.user_attrs)


def counted_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """Return the trials of the study. An interrupted trial is replaced by the first one that was queued in its place."""
    trials, replaced = [], set[int | None]()
    for trial in study.get_trials(deepcopy=False):
        instead_of = trial.user_attrs.get(INSTEAD_OF)
        if SURPLUS in trial.user_attrs or (instead_of is not None and instead_of in replaced):
            replaced.add(trial.number)  # trials queued in its place do not count, either
        elif INTERRUPTED not in trial.user_attrs:
            trials.append(trial)
        replaced.add(instead_of)
    return trials


def record_heartbeat(trial: "Trial") -> None:
    """Record that this process is working on the trial."""
    trial.set_user_attr(OWNER, this_process())


def active_processes(study: "optuna.Study", dead_seconds: float = DEAD_SECONDS) -> list[str]:
    """Return the processes that are working on the study, with their machines."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    owners = [trial.user_attrs[OWNER] for trial in running if OWNER in trial.user_attrs and _is_alive(trial, dead_seconds)]
    return sorted({f"process {owner['pid']} on {owner['host']}" for owner in owners})


def store_seed(trial: "Trial", finished: SeedResult) -> None:
    """Store the result of a finished seed, so that it is never repeated even if this process dies."""
    trial.set_user_attr(f"{SEED}{finished.seed}", asdict(finished))


def finished_seeds(trial: "Trial | FrozenTrial") -> dict[int, SeedResult]:
    """Return the stored results of a trial's seeds, by seed."""
    results = [SeedResult(**value) for name, value in trial.user_attrs.items() if name.startswith(SEED)]
    return {finished.seed: finished for finished in sorted(results, key=lambda finished: finished.seed)}


def mean_score(trial: "Trial | FrozenTrial") -> float:
    """
    Return the mean over seeds of the final policy's mean return. The interquartile mean would hide that one run of three
    fails.
    """
    means = [finished.mean_return for finished in finished_seeds(trial).values()]
    return sum(means) / len(means)


def mark_failed(study: "optuna.Study", trial: "Trial", reason: str, details: str = "") -> None:
    """Mark a trial as failed, with the reason and the traceback."""
    from optuna.trial import TrialState

    trial.set_user_attr(ERROR, reason)
    trial.set_user_attr(DETAILS, details)
    study.tell(trial, state=TrialState.FAIL)


def requeue_abandoned(study: "optuna.Study", dead_seconds: float = DEAD_SECONDS) -> list[int]:
    """
    Queue again every trial whose process has died.

    :param dead_seconds: a machine that is silent for longer counts as dead
    :return: numbers of the trials that were found abandoned
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    dead = [trial.number for trial in trials if trial.state == TrialState.RUNNING and not _is_alive(trial, dead_seconds)]
    found = [number for number in dead if interrupt(study, number)]
    # A process that did the same may have been killed before it queued the trial again.
    replaced = {trial.user_attrs.get(INSTEAD_OF) for trial in study.get_trials(deepcopy=False)}
    for trial in trials:
        if trial.state == TrialState.FAIL and INTERRUPTED in trial.user_attrs and trial.number not in replaced:
            enqueue_again(study, trial)
    return found


def interrupt(study: "optuna.Study", number: int) -> bool:
    """End a running trial and queue one in its place. Return False if another machine has already done so."""
    from optuna.trial import TrialState

    trial = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    with ignoring_takeover():
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(number, state=TrialState.FAIL)
        enqueue_again(study, trial)
        return True
    return False


def is_running(study: "optuna.Study", trial: "Trial") -> bool:
    """Return whether the trial still belongs to this machine. Another one takes it over if this machine seems dead."""
    return any(t.number == trial.number and not t.state.is_finished() for t in study.get_trials(deepcopy=False))


@contextlib.contextmanager
def ignoring_takeover() -> Iterator[None]:
    """Ignore Optuna's errors about a trial that another machine has taken over because this one seemed dead."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError:
        pass
    except ValueError as error:
        if "Cannot tell" not in str(error):
            raise


def enqueue_again(study: "optuna.Study", trial: "FrozenTrial") -> None:
    """Queue a trial with the same parameters and the same finished seeds."""
    # The process may have been killed before every parameter was suggested.
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    kept = {name: value for name, value in trial.user_attrs.items() if name.startswith(SEED) or name == DEFAULT}
    study.enqueue_trial(params, user_attrs={**_queued(), **kept, INSTEAD_OF: trial.number})


def silent_trials(study: "optuna.Study") -> list[int]:
    """Return the numbers of the trials whose machine has missed a heartbeat. It will soon send one or count as dead."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    return [trial.number for trial in running if _silent_seconds(trial) > OVERDUE_SECONDS]


def _is_alive(trial: "FrozenTrial", dead_seconds: float) -> bool:
    owner = trial.user_attrs.get(OWNER, {})
    without_heartbeat = AT not in owner and is_this_process(owner)  # it could not be written, for example to a full disk
    return _silent_seconds(trial) <= dead_seconds and not has_ended(owner) and not without_heartbeat


def _silent_seconds(trial: "FrozenTrial") -> float:
    asked_at = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - trial.user_attrs.get(OWNER, {}).get(AT, asked_at)
