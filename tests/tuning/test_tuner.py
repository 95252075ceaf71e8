"""The search: what it trains, how trials score, and that finished work is reused."""

import multiprocessing as mp
import os
import tempfile
import time
from pathlib import Path

import pytest
from selection import mostly_slow
from support.full_disk import full_disk
from support.made_up_runs import ThreadWorker

from sb3_pgx.settings.search_spaces import arguments_of
from sb3_pgx.tuning import trial_records
from sb3_pgx.tuning.process_identity import this_process
from sb3_pgx.tuning.study import open_study
from sb3_pgx.tuning.tuner import run_tuning
from sb3_pgx.tuning.worker_process import SeedDone


@pytest.fixture
def storage(kind):
    """A folder in memory if possible, because SQLite waits for the disk at each of its many writes."""
    if kind == "journal":
        yield None
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            yield f"sqlite:///{folder}/study.db"


KINDS = ["journal", "sqlite"]
each_storage = pytest.mark.parametrize("kind", KINDS)
mostly_the_journal = pytest.mark.parametrize("kind", mostly_slow(KINDS, ["journal"]))


def states(study):
    return [trial.state.name for trial in study.trials]


def test_a_score_is_the_mean_over_seeds_of_the_final_policys_mean_returns(stub, plan, search):
    stub.returns = {(0, 100): 10.0, (0, 101): 13.0, (1, 100): 2.0, (1, 101): 40.0, (2, 100): 20.0, (2, 101): 20.5}
    summary, study = search(plan())
    assert [trial.value for trial in study.trials] == [11.5, 21.0, 20.25]
    assert summary.best.number == 1 and summary.default_score == 11.5
    assert stub.executions() == [(trial, seed) for trial in range(3) for seed in (100, 101)]


def test_the_first_trial_is_the_configuration_as_it_is(stub, plan, search):
    p = plan("ppo", trials=1)
    summary, _ = search(p)
    hyperparameters = {k: v for k, v in summary.config.hyperparameters.items() if k in p.config.hyperparameters}
    assert hyperparameters == p.config.hyperparameters and "lin_0.001" in hyperparameters.values()


def test_every_trial_comes_to_an_update_and_the_configuration_is_shortened_likewise(stub, plan, search, tmp_path):
    (tmp_path / "ppo.yml").write_text("default:\n  n_envs: 4\n  n_steps: 2048\n")
    p = plan("ppo", trials=8, sampler="random", configs=tmp_path)
    stub.returns = {0: 100.0}
    summary, study = search(p)
    assert summary.config.hyperparameters["n_steps"] == 64  # 4 * 128 steps would be more than the 400 of a run
    long = [trial for trial in study.trials[1:] if 4 * 2 ** trial.params["n_steps_pow"] > p.timesteps]
    assert long and all(trial.user_attrs["hyperparameters"]["n_steps"] == "64" for trial in long)


def test_a_configuration_outside_of_the_space_is_told_and_not_called_the_first_trial(plan, search, stub, tmp_path, capsys):
    (tmp_path / "ppo.yml").write_text("default:\n  gamma: 0.5\n  n_epochs: 7\n  n_steps: 32\n")
    summary, study = search(plan("ppo", trials=1, configs=tmp_path))
    assert "ppo.yml: default is outside of the search space in one_minus_gamma; the first trial" in capsys.readouterr().out
    assert summary.default_score is None and study.trials[0].params["n_epochs"] == 7


@mostly_the_journal
def test_a_killed_search_goes_on_where_it_was(stub, plan, search, killed_at, storage):
    """The search is killed (SIGKILL) during the second seed of the second trial, and then resumed."""
    p = plan(trials=4, storage=storage)
    killed_at(p, trial=1, seed=101)
    assert stub.executions() == [(0, 100), (0, 101), (1, 100)]
    rate_of_trial_1 = stub.rates()[1]
    stub.returns = {(1, 100): 1.0, (2, 101): 5.0}  # what takes the place of trial 1 is trial 2
    summary, study = search(p)
    assert stub.executions()[3:] == [(2, 101), (3, 100), (3, 101), (4, 100), (4, 101)]
    assert stub.rates()[2] == rate_of_trial_1
    assert study.trials[2].params == study.trials[1].params
    assert study.trials[2].value == (1.0 + 5.0) / 2
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"] and len(summary.trials) == 4


def test_seeds_in_lock_step_go_on_beside_those_that_are_finished(stub, plan, search):
    """The curve of the finished seed is part of the mean again, without training."""
    p = plan(trials=2, pruner="median")
    stub.returns = {(0, 100): 10.0, (0, 101): 30.0}
    _, study = search(plan(trials=1, pruner="median"))
    finished = study.trials[0].user_attrs["seed 100"]
    study.enqueue_trial(study.trials[0].params, user_attrs={"seed 100": {**finished, "mean_return": 10.0}})
    stub.returns = {(1, 101): 50.0}
    search(p)
    assert (1, 100) not in stub.executions() and study.trials[1].value == 30.0
    assert study.trials[1].intermediate_values == {100: 30.0, 200: 30.0, 300: 30.0, 400: 30.0}


def test_a_finished_study_trains_nothing_more_and_more_trials_only_those(stub, plan, search):
    search(plan(trials=2))
    search(plan(trials=2))
    assert len(stub.executions()) == 4
    search(plan(trials=3))
    assert stub.executions()[4:] == [(2, 100), (2, 101)]


def test_ctrl_c_leaves_the_trial_under_way_to_the_next_call(stub, plan, search):
    study = open_study(plan(trials=1))
    tell = study.tell

    def interrupted(trial, score=None, **kwargs):
        if score is not None:
            raise KeyboardInterrupt
        return tell(trial, score, **kwargs)

    study.tell = interrupted
    with pytest.raises(KeyboardInterrupt):
        search(plan(trials=1), study)
    # Resumed in the same process, so the process that was working on the trial seems alive.
    _, study = search(plan(trials=1))
    assert stub.executions() == [(0, 100), (0, 101)] and states(study) == ["FAIL", "COMPLETE"]


def test_after_ctrl_c_the_best_so_far_is_written(stub, plan):
    class InterruptsTheSecond(ThreadWorker):
        def receive(self):
            message = super().receive()
            if isinstance(message, SeedDone) and (1, 100) in stub.executions():
                raise KeyboardInterrupt
            return message

    p = plan(trials=2, progress=False)
    with pytest.raises(KeyboardInterrupt, match=f"the best so far is in {p.config_file}; run the same command again"):
        run_tuning(p, open_study(p), make_worker=lambda: InterruptsTheSecond(stub.execute))
    assert "trial 0 of 2 in the study" in p.config_file.read_text() and p.report.exists()


def test_a_report_that_finds_the_disk_full_is_written_by_the_next_call(stub, plan, search):
    p = plan(trials=2, progress=False)
    _, study = search(p)
    with full_disk(20_000):  # the settings fit, pictures do not
        summary = run_tuning(p, study)
    assert "cannot be written: File too large" in str(summary.unwritten) and summary.text.startswith("2 trials: 2 finished.")
    assert not p.report.exists() and not list(p.output.glob("*.png"))
    summary = run_tuning(p, study)
    assert summary.unwritten is None and p.report.exists() and len(stub.executions()) == 4


def test_a_failure_is_kept_with_its_reason_and_the_search_goes_on(stub, plan, search):
    stub.errors = {1: "ValueError: reward nan"}
    summary, study = search(plan(trials=3))
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["error"] == "seed 100: ValueError: reward nan"
    assert summary.failures == ["trial 1: seed 100: ValueError: reward nan"] and "reward nan" in summary.text
    assert (1, 101) not in stub.executions()


def test_a_return_that_is_not_finite_is_a_failure(stub, plan, search):
    stub.returns = {1: float("nan")}
    summary, _ = search(plan(trials=2))
    assert summary.failures == ["trial 1: seed 100: an episode of the final policy returned nan"]


def test_the_median_pruner_compares_means_of_the_seeds_at_the_same_environment_steps(stub, plan, search):
    """
    The median of the first five trials is 15 at every point. Trial 5 is at (2 + 18) / 2 = 10, and ends at the first point
    that is not warm-up, after a quarter of the steps; trial 6 is at (10 + 22) / 2 = 16, and is trained to the end.
    """
    stub.returns = {0: 10.0, 1: 20.0, 2: 15.0, 3: 9.0, 4: 21.0, (5, 100): 2.0, (5, 101): 18.0, (6, 100): 10.0, (6, 101): 22.0}
    _, study = search(plan(trials=7, pruner="median"))
    assert states(study) == [*["COMPLETE"] * 5, "PRUNED", "COMPLETE"]
    assert study.trials[5].intermediate_values == {100: 10.0}
    assert study.trials[6].intermediate_values == {100: 16.0, 200: 16.0, 300: 16.0, 400: 16.0}


def test_hyperband_prunes_at_environment_steps(stub, plan, search):
    stub.returns = dict(enumerate([50.0, 1.0, 2.0, 40.0, 1.5, 60.0, 0.5, 0.1]))
    _, study = search(plan(trials=8, pruner="hyperband"))
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned and all(trial.user_attrs.get("seed 100") is None for trial in pruned)
    assert {step for trial in study.trials for step in trial.intermediate_values} <= {100, 200, 300, 400}
    assert study.best_value == 60.0


def test_the_wilcoxon_pruner_stops_after_the_seeds_that_tell_enough(stub, plan, search):
    """A trial that is worse on each of n seeds has p = 2^-n, which is below 0.1 from the fourth seed on."""
    stub.returns = {0: 10.0, 1: 1.0, 2: 11.0}
    _, study = search(plan(trials=3, pruner="wilcoxon", seeds=6))
    assert [seed for trial, seed in stub.executions() if trial == 1] == [100, 101, 102, 103]
    assert states(study) == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert study.trials[1].intermediate_values == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}


@each_storage
def test_machines_that_share_a_study_never_train_the_same_trial(stub, plan, search, storage):
    stub.seconds = 0.02
    p = plan(trials=6, workers=2, storage=storage, sampler="random", sampler_seed=None)
    machines = [mp.get_context("fork").Process(target=search, args=(p,)) for _ in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(30)
        assert machine.exitcode == 0
    executions = stub.executions()
    assert sorted(set(executions)) == sorted(executions) and len(executions) == 12
    summary, study = search(p)
    assert len(stub.executions()) == 12 and len(summary.trials) == 6
    assert sum(trial_records.DEFAULT in trial.user_attrs for trial in study.trials) == 1


def test_of_two_machines_that_ask_for_the_last_trial_at_once_one_goes_without(plan):
    p = plan(trials=1)
    one, other = open_study(p), open_study(p)
    ask = one.ask

    def ask_after_the_other():
        assert trial_records.next_trial(other, p).number == 0
        return ask()

    one.ask = ask_after_the_other
    assert trial_records.next_trial(one, p) is None and trial_records.next_trial(other, p) is None
    assert [trial.number for trial in trial_records.counted_trials(one)] == [0]


@mostly_the_journal
def test_two_machines_that_find_a_dead_one_at_once_start_its_trial_once(stub, plan, search, killed_at, storage):
    """The second machine looks after the first has marked the trial as failed, and before it has queued another."""
    p = plan(trials=3, storage=storage)
    killed_at(p, trial=1, seed=101)
    one, other = open_study(p), open_study(p)
    tell = one.tell

    def told_before_the_other_looks(*args, **kwargs):
        tell(*args, **kwargs)
        trial_records.requeue_abandoned(other)

    one.tell = told_before_the_other_looks
    trial_records.requeue_abandoned(one)
    assert [trial.user_attrs.get("instead of") for trial in one.trials] == [None, None, 1, 1]
    summary, study = search(p)
    assert stub.executions()[3:] == [(2, 101), (4, 100), (4, 101)]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert [trial.number for trial in summary.trials] == [0, 2, 4]


def test_what_was_queued_twice_counts_once_though_the_first_of_it_was_interrupted_again(plan):
    p = plan(trials=1)
    study = open_study(p)
    trial_records.interrupt(study, study.ask().number)
    trial_records.enqueue_again(study, study.trials[0])
    trial_records.interrupt(study, study.ask().number)
    assert [trial.user_attrs.get("instead of") for trial in study.trials] == [None, 0, 0, 1]
    assert [trial.number for trial in trial_records.counted_trials(study)] == [3]
    assert trial_records.next_trial(study, p).number == 3


def test_what_was_one_too_many_is_not_started_again_where_its_machine_died_before_it_said_so(plan):
    p = plan(trials=1)
    study = open_study(p)
    trial_records.interrupt(study, study.ask().number)
    trial_records.enqueue_again(study, study.trials[0])
    first, second, third = (study.ask() for _ in range(3))
    third.set_user_attr(trial_records.SURPLUS, True)
    trial_records.interrupt(study, second.number)
    trial_records.interrupt(study, third.number)
    assert [trial.user_attrs.get("instead of") for trial in study.trials] == [None, 0, 0, None, 2, 3]
    assert [trial.number for trial in trial_records.counted_trials(study)] == [first.number]
    assert trial_records.next_trial(study, p) is None


def test_the_trial_of_a_machine_that_is_silent_starts_again_and_that_of_another_one_does_not(stub, plan, search):
    p = plan(trials=2)
    study = open_study(p)
    for silent in (True, False):
        trial = study.ask()
        trial.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "at": time.time() - 1000 * silent})
    assert trial_records.requeue_abandoned(study) == [0]
    search(p)
    assert states(study) == ["FAIL", "RUNNING", "COMPLETE"]
    assert study.trials[2].params.items() >= {"n_steps": 5, "use_rms_prop": True}.items()  # queued by the first: as it is


def test_a_trial_that_another_machine_has_taken_over_is_given_up(stub, plan, search):
    """A machine that was silent for a long time, such as a suspended one, wakes up."""
    p = plan(trials=2)
    study, heard = open_study(p), []

    class WakesUp(ThreadWorker):
        def receive(self):
            message = super().receive()
            if isinstance(message, SeedDone) and not heard:
                heard.append(trial_records.interrupt(open_study(p), 0))
            return message

    search(p, study, lambda: WakesUp(stub.execute))
    assert heard == [True]
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == study.trials[0].params


def test_who_was_killed_between_giving_up_a_trial_and_queueing_it_again_loses_nothing(stub, plan, search):
    study = open_study(plan())
    trial = study.ask()
    trial.set_user_attr("owner", {**this_process(), "pid": 2**22 + 1})  # beyond every process

    def killed_in_between():
        study.enqueue_trial = lambda *args, **kwargs: os._exit(9)
        trial_records.requeue_abandoned(study)

    process = mp.get_context("fork").Process(target=killed_in_between)
    process.start()
    process.join()
    assert process.exitcode == 9
    _, study = search(plan(trials=1))
    assert states(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["instead of"] == 0


def test_trials_start_where_the_sampler_says(stub, plan, search):
    """Of one seed, hence the same again; and each with the hyperparameters of its parameters."""
    _, study = search(plan(trials=3, sampler="random"))
    for trial in study.trials:
        assert stub.rates()[trial.number] == str(arguments_of("a2c", trial.params)["learning_rate"])
    assert len(set(stub.rates().values())) == 3
