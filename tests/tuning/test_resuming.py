"""A study that is killed and resumed equals an uninterrupted one, and trials of dead machines are repeated."""

import multiprocessing as mp
import os
import random
import tempfile
import time
from pathlib import Path

import pytest
from support.made_up_runs import ThreadWorker

from sb3_pgx.tuning import trial_records
from sb3_pgx.tuning.study import open_study
from sb3_pgx.tuning.study_report import write_study_report
from sb3_pgx.tuning.worker_process import TaskEnded


@pytest.fixture
def folder():
    """A folder in memory if possible, because each record of a journal waits for the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def scored_by_parameters(stub):
    """The return of a run depends only on its settings and its seed, not on the number of its trial."""
    stub.by_parameters = True
    return stub


def found(study):
    """Return parameters and score of each trial in the order of the study. Interrupted trials count once."""
    return [(trial.params, trial.value) for trial in trial_records.counted_trials(study)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_three_starts_of_five_trials_are_one_start_of_fifteen(scored_by_parameters, plan, search, sampler, folder):
    """The first ten are random ones, whatever the sampler."""
    settings = {"sampler": sampler, "seeds": 1}
    _, once = search(plan(trials=15, output=folder / "once", **settings))
    for total in (5, 10, 15):
        _, thrice = search(plan(trials=total, output=folder / "thrice", **settings))
    assert found(thrice) == found(once)
    assert len({str(params) for params, _ in found(once)}) == 15
    _, other = search(plan(trials=15, output=folder / "other", **settings, sampler_seed=1))
    assert found(other)[1:] != found(once)[1:], "another seed is another search"


def test_machines_with_the_same_seed_do_not_try_the_same(plan):
    p = plan(trials=6, sampler="random")
    machines = [open_study(p), open_study(p)]
    asked = [trial_records.next_trial(machines[k % 2], p) for k in range(6)]
    assert len({trial.suggest_float("x", 0.0, 1.0) for trial in asked}) == 6


def test_a_trial_that_was_interrupted_while_it_was_sampled_gets_what_it_would_have_got(plan):
    """Some parameters were sampled before the interruption, others were not; the order does not matter."""
    names = ["x", "y", "z"]
    p = plan(trials=9, sampler="random")
    study = open_study(p)
    study.ask()
    trial = study.ask()
    expected = {name: trial.suggest_float(name, 0.0, 1.0) for name in names}
    assert len(set(expected.values())) == 3
    again = open_study(plan(trials=9, sampler="random", output=p.output.with_name("again")))
    again.ask()
    half = again.ask()
    assert half.suggest_float("y", 0.0, 1.0) == expected["y"]
    trial_records.interrupt(again, half.number)
    resumed = again.ask()
    assert resumed.user_attrs["instead of"] == trial.number
    assert {name: resumed.suggest_float(name, 0.0, 1.0) for name in reversed(names)} == expected
    following = [s.ask().suggest_float("x", 0.0, 1.0) for s in (study, again)]
    assert following[0] == following[1]


def kills_and_an_uninterrupted_search_agree(plan, search, folder, kills, trials_):
    """Compare a search that is killed (SIGKILL) at random moments and then resumed with an uninterrupted one."""
    settings = {"trials": trials_, "seeds": 2, "lock_seconds": 1}
    start = time.perf_counter()
    _, uninterrupted = search(plan(output=folder / "uninterrupted", **settings))
    seconds = 0.8 * (time.perf_counter() - start)
    p = plan(output=folder / "killed", **settings)
    killed = 0
    for kill in range(kills):  # the first one soon after the start
        process = mp.get_context("fork").Process(target=search, args=(p,))
        process.start()
        process.join(seconds * random.uniform(kill, kill + 1) / kills)
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed, "every start came to its end"
    _, resumed = search(p)
    assert found(resumed) == found(uninterrupted)
    assert all(trial.state.is_finished() for trial in resumed.trials)
    assert sorted(os.listdir(p.output)) == ["journal.log"]


def test_a_trial_whose_process_is_killed_before_its_first_heartbeat_is_repeated_at_once(
    scored_by_parameters, plan, search, folder
):
    """Twice: the second process is killed at the trial that was queued in place of the first."""
    settings = {"trials": 3, "seeds": 1}
    _, uninterrupted = search(plan(output=folder / "uninterrupted", **settings))
    p = plan(output=folder / "killed", **settings)

    def killed_when_it_has_asked():
        study = open_study(p)
        ask = study.ask
        study.ask = lambda: ask() and os._exit(9)
        search(p, study)

    for _ in range(2):
        process = mp.get_context("fork").Process(target=killed_when_it_has_asked)
        process.start()
        process.join()
        assert process.exitcode == 9
    _, resumed = search(p)
    assert found(resumed) == found(uninterrupted)
    assert all(trial.state.is_finished() for trial in resumed.trials)


@pytest.mark.filterwarnings("ignore:.*grace_period")
def test_a_search_that_is_killed_at_any_moment_is_that_of_one_start(scored_by_parameters, plan, search, folder):
    scored_by_parameters.seconds = 0.01
    kills_and_an_uninterrupted_search_agree(plan, search, folder, kills=4, trials_=12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*grace_period")
def test_a_search_that_is_killed_at_any_moment_many_times(scored_by_parameters, plan, search, folder):
    scored_by_parameters.seconds = 0.02
    for k in range(10):
        kills_and_an_uninterrupted_search_agree(plan, search, folder / f"{k}", kills=10, trials_=20)


# ---------------------------------------------------------------------------------------------------- the report


def test_a_report_that_was_cut_off_does_not_stop_the_study(stub, plan, search):
    p = plan(trials=1, study_name="Größe")
    summary, study = search(p)
    write_study_report(summary, study, p)
    page = p.report.read_bytes()
    title = page.index(b"<title>") + len("<title>")
    lengths = [
        0,
        1,
        40,
        title,
        title + 5,
        page.index("ß".encode()) + 1,
        page.index(b"</title>") + 3,
        page.index(b"<body>"),
        -9,
    ]
    for length in lengths:
        p.report.write_bytes(page[:length])
        for force in (False, True):
            assert plan(trials=1, study_name="Größe", force=force).output == p.output, length
    write_study_report(summary, study, p)
    assert p.report.read_bytes().endswith(b"</html>\n")


# ---------------------------------------------------------------------------------------------------- machines


def owner_with(trial, **changes):
    owner = trial.study.trials[trial.number].user_attrs["owner"]
    trial.set_user_attr("owner", {**owner, **changes})


def test_a_container_of_the_same_host_name_keeps_its_trials(plan):
    """Process numbers of another machine mean nothing here. Only the host name is the same."""
    p = plan(trials=2)
    study = open_study(p)
    trial = trial_records.next_trial(study, p)
    apart = {name: f"another {name}" for name in trial.user_attrs["owner"] if name not in ("host", "pid", "at")}
    owner_with(trial, pid=2**22 + 1, **apart)  # beyond every process here
    assert trial_records.requeue_abandoned(study) == [] and trial_records.active_processes(study)
    assert [t.state.name for t in study.trials] == ["RUNNING"]


def test_a_later_process_with_the_same_number_does_not_pass_for_one_that_died(plan):
    p = plan(trials=2)
    study = open_study(p)
    trial = trial_records.next_trial(study, p)
    assert trial_records.requeue_abandoned(study) == [], "this process is alive"

    def beat_and_die():
        trial_records.record_heartbeat(trial)

    process = mp.get_context("fork").Process(target=beat_and_die)
    process.start()
    process.join()
    owner_with(trial, pid=os.getpid())  # as if the system had given the number to this process
    assert trial_records.requeue_abandoned(study) == [0]


def test_a_process_that_has_ended_and_was_not_waited_for_is_dead(plan):
    p = plan(trials=2)
    study = open_study(p)
    trial = trial_records.next_trial(study, p)
    pid = os.fork()
    if pid == 0:
        trial_records.record_heartbeat(trial)
        os._exit(0)
    try:
        time.sleep(0.3)
        assert trial_records.requeue_abandoned(study) == [0]
    finally:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("dead", [True, False])
def test_the_trial_of_a_machine_that_seems_dead_is_settled_before_the_search_ends(stub, plan, search, dead):
    """Either it sends a heartbeat again, or it counts as dead and its trial is repeated."""
    p = plan(trials=2, seeds=1, dead_seconds=62.0)
    study = open_study(p)
    trial = trial_records.next_trial(study, p)
    owner_with(trial, machine="another machine", at=time.time() - 61.0)

    class HearsOfIt(ThreadWorker):
        def receive(self):
            message = super().receive()
            if not dead and isinstance(message, TaskEnded):
                owner_with(trial, machine="another machine", at=time.time())
            return message

    _, study = search(p, make_worker=lambda: HearsOfIt(stub.execute))
    states = [t.state.name for t in study.trials]
    assert states == (["FAIL", "COMPLETE", "COMPLETE"] if dead else ["RUNNING", "COMPLETE"])
    assert stub.executions() == ([(1, 100), (2, 100)] if dead else [(1, 100)])
