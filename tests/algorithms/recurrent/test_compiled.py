"""Compiled acting and gradient steps of recurrent policies against eager ones, which differ in everything but the result."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from support.capabilities import BOX, DICT, MIXED, envs
from support.eager_and_compiled import Sentences, assert_same_training, trained
from support.recurrent import CELLS, LAYOUTS, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import PPO, PPOPenalty
from sb3_pgx.engine.compiler import using_backend


def scripted():
    return vectorised(Scripted([3, 2, 7], [True, False, True]), Scripted([4, 9], [False, True]), Scripted([50]))


def pair(algorithm=PPO, policy="MlpLstmPolicy", make=scripted, layout="separate", **kwargs):
    """Return the same model twice, eager and compiled."""
    settings = dict(n_steps=8, batch_size=12, n_epochs=2, sequence_length=4, learning_rate=1e-3, seed=0, device=DEVICE)
    models = []
    for compiled in (False, True):
        model = algorithm(policy, make(), compile=compiled, policy_kwargs=policy_kwargs(layout), **{**settings, **kwargs})
        model.log = Sentences()
        model.set_logger(Logger(None, [model.log]))
        models.append(model)
    return models


def check(models, n_graphs):
    eager, compiled = models
    expected = trained(eager, 96)
    made = []
    with using_backend(lambda graph, examples: made.append(graph) or graph):  # graphs run as they were traced
        assert trained(compiled, 96) == expected
    assert len(made) == n_graphs
    assert_same_training(eager, compiled, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_compiled_run_is_the_eager_one(cell, layout):
    """Episodes start within the pieces, and states go on over rollouts."""
    check(pair(policy=f"Mlp{cell}Policy", layout=layout), n_graphs=2)


CASES = {
    "Box": dict(make=envs),
    "Dict": dict(policy="MultiInputLstmPolicy", make=lambda: envs(DICT, BOX)),
    "gSDE": dict(make=envs, use_sde=True, sde_sample_freq=2),
    "mixed actions": dict(make=lambda: envs(action_space=MIXED)),
    "MultiDiscrete": dict(make=lambda: envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "PPOPenalty": dict(algorithm=PPOPenalty),
    "sequences of any length": dict(sequence_length=None),
    "pieces of two lengths": dict(sequence_length=3),
    "a smaller last minibatch": dict(batch_size=10),  # which runs uncompiled
    "one step": dict(sequence_length=1),
    "one piece": dict(sequence_length=4, batch_size=4),
}


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_other_runs(case):
    check(pair(**CASES[case]), n_graphs=2)


def test_a_callback_that_may_change_the_policy_acts_uncompiled():
    """It may read values and log-probabilities, which need the critic's states at each step."""
    eager, compiled = pair()
    seen = {False: [], True: []}
    for model, made in ((eager, []), (compiled, [])):
        np.random.seed(0)
        th.manual_seed(0)
        with using_backend(lambda graph, examples, made=made: made.append(graph) or graph):
            model.learn(48, callback=lambda values, _, of=model: seen[of.compiled].append(values["values"].clone()) or True)
        assert len(made) == (model is compiled)  # the gradient step alone
    th.testing.assert_close(th.stack(seen[True]), th.stack(seen[False]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_run_by_the_compiler_is_the_eager_one(cell):
    eager, compiled = pair(policy=f"Mlp{cell}Policy")
    assert trained(compiled, 96) == trained(eager, 96)
    assert "the gradient step is compiled" in compiled.log.sentences and "acting is compiled" in compiled.log.sentences
    assert_same_training(eager, compiled, atol=1e-4)
