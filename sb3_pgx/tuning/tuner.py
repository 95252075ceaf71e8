"""Searches for hyperparameters: asks the study for trials, lets workers train them, and stores their scores."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sb3_pgx.core.planned_functions import planned_by
from sb3_pgx.experiments.progress import Progress
from sb3_pgx.experiments.runs import RunProgress
from sb3_pgx.settings.search_spaces import sample_params
from sb3_pgx.tuning import trial_records
from sb3_pgx.tuning.study import open_study, reachable
from sb3_pgx.tuning.study_report import StudySummary, summarize_study, write_study_report
from sb3_pgx.tuning.trial_runs import Task
from sb3_pgx.tuning.tuning_plan import TuningPlan, plan_tuning
from sb3_pgx.tuning.worker_process import TRIAL, CurvePoint, Message, SeedDone, TaskEnded, Worker, receive_messages

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

MakeWorker = Callable[[], Worker]


@planned_by(plan_tuning)
def tune(plan: TuningPlan) -> StudySummary:
    """
    Search for hyperparameters with Optuna, and write the best ones as a hyperparameter file, with pictures of the search.

    An existing study is resumed if it has the same algorithm, environment, budget, seeds and search space. Finished trials and
    finished seeds are reused; interrupted trials are repeated. Workers are processes, so call this function under
    ``if __name__ == "__main__":``.

    :param algorithm: name of the algorithm, such as ``"ppo"``, or ``"sb3:ppo"`` for SB3's PPO
    :param env: Gymnasium's name of the environment
    :param trials: total number of trials in the study, over all machines and calls. Typical: 20 to 200
    :param timesteps: environment steps per run, summed over its parallel environments; default: the ``n_timesteps`` of the
        hyperparameter file
    :param seeds: a number of seeds (100, 101, …), or the seeds themselves. A trial's score is the mean over its seeds of the
        final policy's return; more seeds make it less noisy.
    :param workers: number of trials at the same time; default: the number of processors
    :param pruner: the rule that stops bad trials early. ``"median"`` and ``"hyperband"`` use the mean return of all seeds,
        which advance together, at equally spaced environment steps. ``"wilcoxon"`` uses the finished seeds, which train one
        after the other. ``"none"`` completes every trial.
    :param sampler: ``"tpe"`` or ``"random"``
    :param sampler_seed: seed of the sampler. A study that is resumed with the same seed samples what an uninterrupted one
        would; with one worker it is reproducible. Default: random
    :param evaluations: number of points of a run at which it can be pruned (``"median"`` and ``"hyperband"`` only)
    :param eval_episodes: episodes that the final policy of each run plays
    :param output: folder for the results; default ``runs/<study_name>``
    :param storage: where Optuna stores the study: the path of a journal file, ``grpc://host:port``, or a database's address
        for SQLAlchemy; default ``journal.log`` in ``output``
    :param study_name: name of the study; default ``tune-<algorithm>-<env>``
    :param configs: folder of hyperparameter files in rl_zoo3's format, whose settings the search starts from; default: this
        package's
    :param vec_env: how the environments of a run step, ``"dummy"``, ``"vector"`` or ``"envpool"``; default: ``vec_env`` of the
        hyperparameter file, or ``"dummy"``
    :param force: whether to delete an existing study of this name and start again
    :param progress: whether to show the running trials, and an estimate of the remaining time
    :param timeout_per_trial: seconds after which a trial, with all its seeds, is ended and counts as failed; default: none
    :return: the trials, the best one, and the paths of the files
    :raises ValueError: a name is unknown, a number is out of range, or the existing study has other settings
    :raises OSError: the storage cannot be reached
    :raises ImportError: a required package is not installed
    """
    summary = run_tuning(plan, open_study(plan))
    if summary.unwritten is not None:
        warnings.warn(f"{summary.unwritten}; the value that tune() returned has all results")
    return summary


def run_tuning(plan: TuningPlan, study: "optuna.Study", make_worker: MakeWorker = Worker) -> StudySummary:
    """
    Train the missing trials of a study, and write the report. After Ctrl-C, the report covers the trials so far. Arguments are
    those of :func:`train_trials`.
    """
    try:
        train_trials(plan, study, make_worker)
    except KeyboardInterrupt:
        summary = _report(plan, study)  # an interrupted search still has results
        is_written = summary.best is not None and summary.unwritten is None
        best = f", and the best so far is in {plan.config_file}" if is_written else ""
        kept = f"finished trials and seeds are kept in the study{best}"
        raise KeyboardInterrupt(f"{kept}; run the same command again to resume") from None
    return _report(plan, study)


def _report(plan: TuningPlan, study: "optuna.Study") -> StudySummary:
    summary = summarize_study(study, plan)
    try:
        write_study_report(summary, study, plan)
    except OSError as error:  # this must not lose hours of training
        return replace(summary, unwritten=error)
    return summary


def train_trials(plan: TuningPlan, study: "optuna.Study", make_worker: MakeWorker = Worker) -> None:
    """
    Train the missing trials of a study.

    :param plan: the plan
    :param study: the study that :func:`~sb3_pgx.tuning.study.open_study` opened for the plan
    :param make_worker: creates what trains the trials; default: a process of this machine
    """
    finished = sum(trial.state.is_finished() for trial in trial_records.counted_trials(study))
    missing = max(plan.trials - finished, 0)
    with reachable(plan.storage), Progress([TRIAL] * missing, plan.workers, TRIAL, plan.progress) as shown:
        _Search(plan, study, shown, make_worker).run()


@dataclass
class _Job:
    """A trial that a worker is training."""

    trial: "Trial"
    reported: tuple[int, float] = (0, 0.0)  # the last report to Optuna: step and value
    pruned: bool = False


@dataclass
class _Search:
    plan: TuningPlan
    study: "optuna.Study"
    shown: Progress
    make_worker: MakeWorker
    workers: list[Worker] = field(default_factory=list)
    jobs: dict[Worker, _Job] = field(default_factory=dict)
    heartbeat_at: float = 0.0
    waiting: bool = False

    def run(self) -> None:
        """Run until the study has ``plan.trials`` trials. Finished trials and seeds survive any interruption."""
        self.workers = [self.make_worker() for _ in range(self.plan.workers)]
        try:
            self._send_heartbeats()
            self._assign_trials()
            while self.jobs or self._is_unfinished():
                for worker, message in receive_messages(list(self.jobs), seconds=1.0):
                    self._handle(worker, message)
                self.shown.refresh()
                self._send_heartbeats()
                self._assign_trials()
        finally:
            for worker in self.workers:
                worker.close()
            for job in self.jobs.values():
                trial_records.interrupt(self.study, job.trial.number)

    def _assign_trials(self) -> None:
        for worker in self.workers:
            if worker not in self.jobs:
                trial = trial_records.next_trial(self.study, self.plan)
                if trial is None:
                    return
                self.jobs[worker] = _Job(trial)
                self.shown.begin(trial.number, f"{TRIAL} {trial.number}", TRIAL, self.plan.timesteps * len(self.plan.seeds))
                worker.submit(task_of(trial, self.plan))

    def _handle(self, worker: Worker, message: Message) -> None:
        job = self.jobs[worker]
        with trial_records.ignoring_takeover():
            if isinstance(message, RunProgress):
                self.shown.advance(job.trial.number, message)
            elif isinstance(message, CurvePoint | SeedDone):
                go_on = False
                try:
                    go_on = not self._should_prune(job, message)
                finally:  # without an answer, the worker would wait forever
                    worker.answer(go_on)
            elif isinstance(message, TaskEnded):
                self._finish(job, message)
        if isinstance(message, TaskEnded):  # only now: until the study knows the result, an interruption must find the job
            del self.jobs[worker]
            self.shown.end(job.trial.number)

    def _should_prune(self, job: _Job, message: CurvePoint | SeedDone) -> bool:
        if isinstance(message, SeedDone):
            trial_records.store_seed(job.trial, message.finished)
            if self.plan.in_lock_step:
                return False
            # Optuna's steps are 0, 1, … here, so that trials are compared on the same seeds.
            step, value = self.plan.seeds.index(message.finished.seed), message.finished.mean_return
        else:
            step, value = message.steps, message.mean_return
        job.trial.report(value, step)
        job.reported = step, value
        last = isinstance(message, SeedDone) and step == len(self.plan.seeds) - 1
        job.pruned = not last and job.trial.should_prune()
        return job.pruned

    def _finish(self, job: _Job, end: TaskEnded) -> None:
        from optuna.trial import TrialState

        trial = job.trial
        if not trial_records.is_running(self.study, trial):
            print(f"trial {trial.number}: another machine has taken it over")
            return
        if end.reason is not None:
            trial_records.mark_failed(self.study, trial, end.reason, end.details)
            outcome = f"failed: {end.reason}"
        elif job.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            step, value = job.reported
            after = f"{step} steps" if self.plan.in_lock_step else f"{step + 1} seeds"
            outcome = f"pruned at {value:.1f} after {after}"
        else:
            score = trial_records.mean_score(trial)
            self.study.tell(trial, score)
            best = self.study.best_trial
            outcome = f"{score:.1f} (best so far {best.value:.1f}, trial {best.number})"
        print(f"trial {trial.number}: {outcome}")

    def _send_heartbeats(self) -> None:
        """From time to time, record heartbeats of this machine's trials and queue again the trials of dead machines."""
        if time.monotonic() - self.heartbeat_at < trial_records.HEARTBEAT_SECONDS and self.heartbeat_at:
            return
        self.heartbeat_at = time.monotonic()
        for job in self.jobs.values():
            with trial_records.ignoring_takeover():
                trial_records.record_heartbeat(job.trial)
        self._requeue_abandoned()

    def _requeue_abandoned(self) -> None:
        for number in trial_records.requeue_abandoned(self.study, self.plan.dead_seconds):
            print(f"trial {number} was interrupted and starts again with the same parameters")

    def _is_unfinished(self) -> bool:
        """Return whether trials of other machines, which have died or may have died, are left when this machine has none."""
        self._requeue_abandoned()
        self._assign_trials()
        if self.jobs:
            return True
        missing = trial_records.silent_trials(self.study)
        if missing and not self.waiting:
            self.waiting = True
            numbers = " and ".join(map(str, missing))
            print(f"waiting for the machine that works on trial {numbers}; it may have died")
        return bool(missing)


def task_of(trial: "Trial", plan: TuningPlan) -> Task:
    """
    Sample the hyperparameters of a trial, and return the runs to train. The starting configuration and interrupted trials have
    fixed parameters, which Optuna suggests here like any others.
    """
    around = plan.config.n_envs, plan.config.policy, trial_records.longest_rollout(trial, plan)
    hyperparameters = sample_params(plan.algorithm, trial, *around)
    trial.set_user_attr(trial_records.HYPERPARAMETERS, {name: repr(value) for name, value in hyperparameters.items()})
    specs = plan.specs(hyperparameters, f"trial {trial.number} of {plan.study_name}")
    return Task(specs, trial_records.finished_seeds(trial), plan.in_lock_step, timeout=plan.timeout_per_trial)
