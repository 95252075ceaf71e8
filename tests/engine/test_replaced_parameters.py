"""Parameters that replace the policy's, which its optimizer does not know."""

import pytest
import torch as th
from selection import RELATIVES, mostly_slow
from support.models import assert_same, make, parameters

from sb3_pgx.registry import ALGORITHMS

MOMENTS = ("before", "between", "in a rollout")
CASES = [(n, when, False) for n in ALGORITHMS for when in MOMENTS] + [(n, "between", True) for n in ALGORITHMS]


def is_quick(name, when, compile):
    """All with PPO, and one of them with each other algorithm."""
    return name == "ppo" or (name not in RELATIVES and when == MOMENTS[[*ALGORITHMS].index(name) % 3] and not compile)


@pytest.mark.parametrize("name, when, compile", mostly_slow(CASES, is_quick))
def test_parameters_that_are_assigned_are_trained_as_those_that_are_copied(name, when, compile, graphs):
    """``load_state_dict(assign=True)`` puts other parameters into the policy than its optimizer moves."""
    results = []
    for assign in (False, True):
        model = make(name, compile=compile)

        def load(*_, model=model, assign=assign):
            state = {key: value.clone() for key, value in model.policy.state_dict().items()}
            model.policy.load_state_dict(state, assign=assign)
            return True

        if when == "before":
            load()
        model.learn(24, callback=load if when == "in a rollout" else None)
        if when == "between":
            load()
        model.learn(24, reset_num_timesteps=False)
        results.append(parameters(model))
        moments = [state for state in model.policy.optimizer.state.values()]
        held = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
        assert held <= {id(p) for p in model.policy.parameters()} and len(moments) <= len(held)
    assert_same(*results)
    assert not all(th.equal(results[0][key], value) for key, value in parameters(make(name)).items())
