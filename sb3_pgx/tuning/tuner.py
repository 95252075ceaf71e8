"""Tunes: asks the study for trials, lets workers train them, and tells the study what they score."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.settings.search_spaces import sample_params
from sb3_pgx.tuning import trial_records
from sb3_pgx.tuning.study import open_study, reachable
from sb3_pgx.tuning.study_report import StudySummary, summarize_study, write_study_report
from sb3_pgx.tuning.trial_runs import Task
from sb3_pgx.tuning.tuning_plan import TuningPlan, plan_tuning
from sb3_pgx.tuning.worker_process import CurvePoint, Message, SeedDone, StepsDone, TaskEnded, Worker, messages

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

Say = Callable[[str], None]


def tune(
    algorithm: str,
    env: str,
    trials: int = 20,
    timesteps: int | None = None,
    seeds: int | Sequence[int] = 3,
    workers: int | None = None,
    pruner: str = "median",
    sampler: str = "tpe",
    sampler_seed: int | None = None,
    evaluations: int = 10,
    eval_episodes: int = 20,
    output: Path | str | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    configs: Path | str | None = None,
    force: bool = False,
    progress: bool = True,
) -> StudySummary:
    """
    Searches for hyperparameters with Optuna, and writes the best ones as a hyperparameter file, with pictures of the search.

    A study that is there already, of the same algorithm, environment, budget, seeds and search space, is gone on with:
    finished trials and finished seeds are not trained again, interrupted trials are. Workers are processes: call it under
    ``if __name__ == "__main__":``.

    :param algorithm: such as ``"ppo"``, or ``"sb3:ppo"`` for SB3's
    :param env: Gymnasium's name of the environment
    :param trials: how many there are to be in the study, over all machines and calls
    :param timesteps: environment steps of a training, over all its environments; default the configuration's ``n_timesteps``
    :param seeds: how many (100, 101, …), or which ones; a trial's score is the mean over them of the final policy's return
    :param workers: trials at a time; default as many as there are processors
    :param pruner: ``"median"`` and ``"hyperband"`` end a trial by the mean of its seeds, which advance together, at equally
        spaced environment steps; ``"wilcoxon"`` by the seeds that are finished, which are trained one after the other; or
        ``"none"``
    :param sampler: ``"tpe"`` or ``"random"``
    :param sampler_seed: of the sampler. A study that is resumed with the same seed goes on as an uninterrupted one would; one
        worker reproduces it
    :param evaluations: at so many points of a training it can be pruned (``"median"`` and ``"hyperband"``)
    :param eval_episodes: episodes that each final policy plays
    :param output: folder for results; default ``runs/<study_name>``
    :param storage: where Optuna keeps the study: a path of a journal file, ``grpc://host:port``, or a database's address as
        SQLAlchemy takes it; default ``journal.log`` in ``output``
    :param study_name: default ``tune-<algorithm>-<env>``
    :param configs: folder of hyperparameter files in rl_zoo3's format, whose entry the search starts from; default this
        package's
    :param force: whether to start anew where there is a study already, which is deleted
    :param progress: whether to show a progress bar
    :return: the trials, the best one, and where what was written
    :raises ValueError: an unknown name, a number out of range, or a study of that name with other settings
    :raises OSError: the storage cannot be reached
    :raises ImportError: a package that this needs is not installed
    """
    plan = plan_tuning(
        algorithm,
        env,
        trials,
        timesteps,
        seeds,
        workers,
        pruner,
        sampler,
        sampler_seed,
        evaluations,
        eval_episodes,
        output,
        storage,
        study_name,
        configs,
        force,
    )
    return run_tuning(plan, open_study(plan), progress)


def run_tuning(plan: TuningPlan, study: "optuna.Study", progress: bool = True) -> StudySummary:
    """
    Trains what the study lacks, and writes the report; after Ctrl-C, of what there is by then.

    :param plan: what to tune
    :param study: that :func:`~sb3_pgx.tuning.study.open_study` opened for it
    :param progress: whether to show a progress bar
    """
    from tqdm import tqdm

    bar = tqdm(unit=" steps", unit_scale=True, disable=None if progress else True)
    try:
        with bar, reachable(plan.storage):
            _Search(plan, study, bar).run()
    except KeyboardInterrupt:
        if write_study_report(summarize_study(study, plan), study, plan):  # who ends a long search wants what it has found
            bar.write(f"the best so far is in {plan.config_file}")
        raise
    summary = summarize_study(study, plan)
    write_study_report(summary, study, plan)
    return summary


@dataclass
class _Job:
    """A trial that a worker is at."""

    trial: "Trial"
    steps: int = 0
    reported: tuple[int, float] = (0, 0.0)  # last: Optuna's step, and the value
    pruned: bool = False


@dataclass
class _Search:
    plan: TuningPlan
    study: "optuna.Study"
    bar: Any
    workers: list[Worker] = field(default_factory=list)
    jobs: dict[Worker, _Job] = field(default_factory=dict)
    beaten_at: float = 0.0
    waiting: bool = False

    def run(self) -> None:
        """Until there are as many trials as there are to be; whatever ends it, nothing finished is lost."""
        self.workers = [Worker() for _ in range(self.plan.workers)]
        self._count_steps()
        try:
            self._beat()
            self._occupy()
            while self.jobs or self._is_needed():
                for worker, message in messages(list(self.jobs), seconds=1.0):
                    self._hear(worker, message)
                self._beat()
                self._occupy()
        finally:
            for worker in self.workers:
                worker.close()
            for job in self.jobs.values():
                trial_records.interrupt(self.study, job.trial.number)

    def _occupy(self) -> None:
        for worker in self.workers:
            if worker not in self.jobs:
                trial = trial_records.next_trial(self.study, self.plan)
                if trial is None:
                    return
                self.jobs[worker] = _Job(trial)
                worker.submit(task_of(trial, self.plan))

    def _hear(self, worker: Worker, message: Message) -> None:
        job = self.jobs[worker]
        with trial_records.ignoring_takeover():
            if isinstance(message, StepsDone):
                job.steps += message.steps
                self.bar.update(message.steps)
            elif isinstance(message, CurvePoint | SeedDone):
                go_on = False
                try:
                    go_on = not self._prune(job, message)
                finally:  # a worker that waits in vain would never be free again
                    worker.answer(go_on)
            elif isinstance(message, TaskEnded):
                self._tell(job, message)
        if isinstance(message, TaskEnded):  # only now: until the study knows the result, an interruption must find the job
            del self.jobs[worker]

    def _prune(self, job: _Job, message: CurvePoint | SeedDone) -> bool:
        if isinstance(message, SeedDone):
            trial_records.store_seed(job.trial, message.finished)
            if self.plan.in_lock_step:
                return False
            # Optuna's steps are 0, 1, …, so that every trial is compared on the same seeds.
            step, value = self.plan.seeds.index(message.finished.seed), message.finished.mean_return
        else:
            step, value = message.steps, message.mean_return
        job.trial.report(value, step)
        job.reported = step, value
        last = isinstance(message, SeedDone) and step == len(self.plan.seeds) - 1
        job.pruned = not last and job.trial.should_prune()
        return job.pruned

    def _tell(self, job: _Job, end: TaskEnded) -> None:
        from optuna.trial import TrialState

        trial = job.trial
        if not trial_records.is_running(self.study, trial):
            self.bar.write(f"trial {trial.number}: another machine has taken it over")
            return
        if end.reason is not None:
            trial_records.mark_failed(self.study, trial, end.reason, end.details)
            outcome = f"failed: {end.reason}"
        elif job.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            step, value = job.reported
            where = f"{step} steps" if self.plan.in_lock_step else f"{step + 1} seeds"
            outcome = f"pruned at {value:.1f} after {where}"
        else:
            score = trial_records.mean_score(trial)
            self.study.tell(trial, score)
            best = self.study.best_trial
            outcome = f"{score:.1f} (best so far {best.value:.1f}, trial {best.number})"
        self.bar.update(self.plan.timesteps * len(self.plan.seeds) - job.steps)
        self.bar.write(f"trial {trial.number}: {outcome}")

    def _beat(self) -> None:
        """Now and then: what this machine is at work on, and whether another one has gone."""
        if time.monotonic() - self.beaten_at < trial_records.HEARTBEAT_SECONDS and self.beaten_at:
            return
        self.beaten_at = time.monotonic()
        for job in self.jobs.values():
            with trial_records.ignoring_takeover():
                trial_records.record_heartbeat(job.trial)
        self._recover()

    def _recover(self) -> None:
        for number in trial_records.requeue_abandoned(self.study):
            self.bar.write(f"trial {number} was interrupted, and starts again with the same parameters")

    def _is_needed(self) -> bool:
        """
        A last look, when nothing is left to train: whether there is the trial of a machine that has died, or that may have.
        """
        self._recover()
        self._occupy()
        if self.jobs:
            return True
        missing = trial_records.silent_trials(self.study)
        if missing and not self.waiting:
            self.waiting = True
            numbers = " and ".join(map(str, missing))
            self.bar.write(f"waiting for the machine at work on trial {numbers}, which may have died")
        return bool(missing)

    def _count_steps(self) -> None:
        finished = sum(trial.state.is_finished() for trial in trial_records.counted_trials(self.study))
        self.bar.total = self.plan.timesteps * len(self.plan.seeds) * max(self.plan.trials - finished, 0)


def task_of(trial: "Trial", plan: TuningPlan) -> Task:
    """
    What there is to train for a trial. A trial that is the configuration as it is, or one that was interrupted, has its
    parameters already; Optuna suggests them here all the same.
    """
    around = plan.config.n_envs, plan.config.policy, trial_records.longest_rollout(trial, plan)
    hyperparameters = sample_params(plan.algorithm, trial, *around)
    trial.set_user_attr(trial_records.HYPERPARAMETERS, {name: repr(value) for name, value in hyperparameters.items()})
    specs = plan.specs(hyperparameters, f"trial {trial.number} of {plan.study_name}")
    return Task(specs, trial_records.finished_seeds(trial), plan.in_lock_step)
