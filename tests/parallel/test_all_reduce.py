"""Processes that average their gradients: the run is that of one process, but for rounding."""

import numpy as np
import pytest
from support.rank_refusals import check_refusals
from support.rank_runs import AVERAGED, made, outcome
from support.ranks import on_ranks

QUICK = ["PPO", "PPO, stopped early", "PPOPenalty", "parts"]
OTHERS = [f"{check}:all_reduce" for check in ("refused", "stopped_by_a_callback", "failing_environment", "failing_callback")]
UPDATES = [f"broken_update:{how}" for how in ("raises", "is not finite")]


@pytest.mark.parametrize(
    ("names", "size"),
    [(QUICK, 2), pytest.param(sorted(AVERAGED), 4, marks=pytest.mark.slow)],
    ids=["2 processes", "4 processes"],
)
def test_fifty_adam_steps_on_several_processes_are_those_of_one(names, size, tmp_path):
    ranks = on_ranks(tmp_path, *(f"all_reduce:{name}" for name in names), size=size)
    for name in names:
        model, steps = made(AVERAGED[name], None)
        expected = outcome(model.learn(steps, log_interval=10**6))
        results = [rank[f"all_reduce:{name}"] for rank in ranks]
        assert len({result["digest"] for result in results}) == 1  # the processes agree bit for bit
        for result in results:
            np.testing.assert_allclose(result["parameters"], expected["parameters"], rtol=0, atol=1e-5, err_msg=name)
            assert result["steps"] == expected["steps"]
            np.testing.assert_allclose(result["episodes"], expected["episodes"], rtol=1e-4, err_msg=name)
        assert ranks[0][f"all_reduce:{name}"]["logged"] == pytest.approx(
            expected["logged"], rel=1e-3, abs=1e-5, nan_ok=True
        ), name
    if "PPO, stopped early" in names:
        taken = ranks[0]["all_reduce:PPO, stopped early"]["steps"][1]
        assert 0 < taken < ranks[0]["all_reduce:PPO"]["steps"][1]  # some updates did end early


def test_errors_and_callbacks(tmp_path):
    first, second = on_ranks(tmp_path, *OTHERS, *UPDATES)

    stopped, of_second = first["stopped_by_a_callback:all_reduce"], second["stopped_by_a_callback:all_reduce"]
    assert (stopped[0], of_second[0]) == (50, 0)  # on_step runs in the first process
    assert stopped[1:] == of_second[1:]

    for rank in (first, second):  # whichever process it is in, an error ends all of them
        assert "the motor is on fire" in rank["failing_environment:all_reduce"][0]

    # So does one of a callback, which only the first process calls.
    *errors, after = first["failing_callback:all_reduce"]
    assert errors == [f"RuntimeError: no disk at {moment}" for moment in ("start", "update", "end")]
    assert second["failing_callback:all_reduce"] == [*(x.replace("no", "in process 0: no") for x in errors), after]

    # An error in the middle of an update ends it in all of them. The same model can learn again.
    errors = {}
    for name in UPDATES:
        (error, *after), (of_second, *after_second) = first[name], second[name]
        assert after == after_second
        assert after[0] == [32, 4]  # after the first update
        errors[name] = error, of_second
    assert errors["broken_update:raises"] == (
        "RuntimeError: in process 1: the policy is on fire",
        "RuntimeError: the policy is on fire",
    )
    error, of_second = errors["broken_update:is not finite"]
    assert "a number of another process, which names it, or the step's result is not finite in update 3; the step" in error
    assert "the value_loss is nan in update 3; the step was not taken" in of_second

    refusals = first["refused:all_reduce"]
    assert refusals == second["refused:all_reduce"]
    check_refusals(refusals)
    for name in ("ACER", "TRPO", "REINFORCE", "memory and masks"):
        assert refusals[name].startswith('ValueError: parallel="all_reduce" averages gradients, but ')
        assert refusals[name].endswith('use parallel="gather"')
    assert "batch_size=15 is that of all processes together" in refusals["batch_size"]
