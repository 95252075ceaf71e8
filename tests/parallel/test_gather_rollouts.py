"""Processes that act in their own environments and send whole rollouts: the run is that of one process, but for rounding."""

import numpy as np
import pytest
from support.rank_refusals import check_refusals
from support.rank_runs import ACTED, witnessed
from support.ranks import on_ranks

DISCRETE = {"PPO", "parts", "masks", "REINFORCE", "REINFORCEBaseline", "TRPO", "ACER", "frames", "PPO, compiled"}
QUICK = ["PPO", "A2C", "parts", "masks", "REINFORCE"]
OTHERS = ["refused", "stopped_by_a_callback", "failing_environment", "failing_callback"]


def check_runs(ranks, names):
    for name in names:
        expected = witnessed(name, None)
        results = [rank[f"gather_rollouts:{name}"] for rank in ranks]
        assert len({result["digest"] for result in results}) == 1, name  # all processes have the same model
        assert results[0]["steps"][0] == expected["steps"][0], name
        np.testing.assert_allclose(results[0]["parameters"], expected["parameters"], rtol=0, atol=1e-4, err_msg=name)
        assert len(results[0]["seen"]) == len(expected["seen"]), name
        for seen, expected_seen in zip(results[0]["seen"], expected["seen"], strict=True):
            np.testing.assert_allclose(seen, expected_seen, rtol=1e-3, atol=1e-3, err_msg=name)
        if name != "NPG":  # whose conjugate gradients end at a residual, after one more step or one less
            assert results[0]["steps"] == expected["steps"], name
            assert results[0]["logged"] == pytest.approx(expected["logged"], rel=1e-2, abs=1e-4, nan_ok=True), name
        if name in DISCRETE:  # rounding chooses no other action: rollouts are the same, and so is what comes of them
            assert results[0]["digest"] == expected["digest"], name
            assert results[0]["seen"] == expected["seen"], name


@pytest.mark.slow
def test_runs_on_four_processes_are_those_of_one(tmp_path):
    names = sorted(ACTED)
    check_runs(on_ranks(tmp_path, *(f"gather_rollouts:{name}" for name in names), size=4), names)


def test_runs_on_two_processes_and_errors(tmp_path):
    checks = [f"{name}:gather_rollouts" for name in OTHERS]
    ranks = first, second = on_ranks(tmp_path, *(f"gather_rollouts:{name}" for name in QUICK), *checks)
    check_runs(ranks, QUICK)

    # A callback that stops sees the steps of one process until then. The environments are reset afterwards.
    calls, steps, after = first["stopped_by_a_callback:gather_rollouts"]
    assert (calls, steps) == (50, 200)
    assert second["stopped_by_a_callback:gather_rollouts"] == [0, steps, after]

    for error, _ in (first["failing_environment:gather_rollouts"], second["failing_environment:gather_rollouts"]):
        assert error == "RuntimeError: in process 1: the motor is on fire"
    *errors, after = first["failing_callback:gather_rollouts"]
    assert errors == [f"RuntimeError: no disk at {moment}" for moment in ("start", "update", "end")]
    assert second["failing_callback:gather_rollouts"] == [*(x.replace("no", "in process 0: no") for x in errors), after]

    refusals = first["refused:gather_rollouts"]
    assert refusals == second["refused:gather_rollouts"] | {"changed policy": refusals["changed policy"]}
    check_refusals(refusals)
    for name in ("VecNormalize", "memory and masks", "own wrapper"):
        assert refusals[name].startswith('ValueError: parallel="gather_rollouts" acts in every process, ')
        assert 'use parallel="gather"' in refusals[name]
    assert "a callback has changed the policy in the middle of a rollout" in refusals["changed policy"]
