"""Processes that step environments for the first one: the run is that of one process, bit for bit."""

import pytest
from support.rank_refusals import check_refusals
from support.rank_runs import RUNS, digest, trained
from support.ranks import on_ranks

QUICK = ["PPO", "A2C, VecNormalize", "ACER", "memory and masks", "arrays", "parts"]


@pytest.mark.parametrize(
    ("names", "size"), [(QUICK, 2), pytest.param(sorted(RUNS), 4, marks=pytest.mark.slow)], ids=["2 processes", "4 processes"]
)
def test_a_run_on_several_processes_is_that_of_one_bit_for_bit(names, size, tmp_path):
    expected = {f"gather:{name}": digest(trained(RUNS[name], None)) for name in names}
    for results in on_ranks(tmp_path, *expected, size=size):
        assert results == expected


def test_scripts_errors_and_callbacks(tmp_path):
    checks = ["outside_of_learn", "saving", "refused:gather", "stopped_by_a_callback:gather", "failing_environment:gather"]
    first, second = on_ranks(tmp_path, *checks)

    # A script that uses the environments itself sees the same in every process.
    observations, rewards, taus, reset, (mean, std) = first["outside_of_learn"]
    assert second["outside_of_learn"] == first["outside_of_learn"]
    assert (rewards, taus, len(reset)) == ([1.0] * 4, [0.02, 0.04], 1)
    assert abs(observations) < 1 and mean >= 8 and std >= 0

    # The first process saves; all have the model and the statistics.
    assert (first["saving"][0], second["saving"][0]) == (True, False)
    assert first["saving"][1] == second["saving"][1] == digest(trained(RUNS["A2C, VecNormalize"], None))

    # on_step runs in the first process; when it stops, all stop, and can go on together.
    (calls, steps, after), (calls_of_second, *same) = (
        first["stopped_by_a_callback:gather"],
        second["stopped_by_a_callback:gather"],
    )
    assert (calls, steps, calls_of_second) == (50, 200, 0)
    assert same == [steps, after]

    # An error of an environment reaches every process, with the process in which it was raised.
    for error, digest_of_next in (first["failing_environment:gather"], second["failing_environment:gather"]):
        assert error == "RuntimeError: in process 1: the motor is on fire"
        assert digest_of_next == digest(trained(RUNS["PPO"], None))  # the next run is not affected

    refusals = first["refused:gather"]
    of_callback = refusals["environments of a callback"]
    assert of_callback.startswith(
        "RuntimeError: a callback, which only the first process calls, uses environments that are spread"
    )
    assert second["refused:gather"] == refusals | {
        "environments of a callback": of_callback.replace("a callback", "in process 0: a callback", 1)
    }
    check_refusals(refusals)
