"""Compiled acting and gradient steps of recurrent policies against eager ones, which differ in everything but the result."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import each_value, mostly_slow
from stable_baselines3.common.logger import Logger
from support.capabilities import BOX, DICT, MIXED, envs
from support.eager_and_compiled import Sentences, assert_same_training, trained
from support.recurrent import CELLS, LAYOUTS, double_policy, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, NPG, PPO, TRPO, PPOPenalty
from sb3_pgx.engine import kept_graphs
from sb3_pgx.engine.compiler import using_backend
from sb3_pgx.engine.kept_graphs import VARIABLE


def scripted():
    return vectorised(Scripted([3, 2, 7], [True, False, True]), Scripted([4, 9], [False, True]), Scripted([50]))


def pair(algorithm=PPO, policy="MlpLstmPolicy", make=scripted, layout="separate", **kwargs):
    """Return the same model twice, eager and compiled, that learns from minibatches of pieces."""
    settings = dict(batch_size=12, n_epochs=2, sequence_length=4, learning_rate=1e-3)
    return twice(algorithm, policy, make, layout, **{**settings, **kwargs})


def twice(algorithm, policy="MlpLstmPolicy", make=scripted, layout="separate", **kwargs):
    """Return the same model twice, eager and compiled."""
    settings = dict(n_steps=8, seed=0, device=DEVICE, policy_kwargs=policy_kwargs(layout), **kwargs)
    models = []
    for compiled in (False, True):
        model = algorithm(policy, make(), compile=compiled, **settings)
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


@pytest.mark.parametrize("cell, layout", each_value(CELLS, LAYOUTS))
def test_a_compiled_run_is_the_eager_one(cell, layout):
    """Episodes start within the pieces, and states go on over rollouts."""
    check(pair(policy=f"Mlp{cell}Policy", layout=layout), n_graphs=3)


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
@pytest.mark.parametrize(
    "case", mostly_slow(CASES, ["Dict", "gSDE", "PPOPenalty", "pieces of two lengths", "a smaller last minibatch"])
)
def test_other_runs(case):
    check(pair(**CASES[case]), n_graphs=3 if case != "PPOPenalty" else 2)  # whose rollouts keep distributions


def test_a_callback_that_may_change_the_policy_acts_uncompiled():
    """It may read values and log-probabilities, which need the critic's states at each step."""
    eager, compiled = pair()
    seen = {False: [], True: []}
    for model, made in ((eager, []), (compiled, [])):
        np.random.seed(0)
        th.manual_seed(0)
        with using_backend(lambda graph, examples, made=made: made.append(graph) or graph):
            model.learn(48, callback=lambda values, _, of=model: seen[of.compiled].append(values["values"].clone()) or True)
        assert len(made) == 2 * (model is compiled)  # the evaluation and the gradient step
    th.testing.assert_close(th.stack(seen[True]), th.stack(seen[False]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_run_by_the_compiler_is_the_eager_one(cell):
    eager, compiled = pair(policy=f"Mlp{cell}Policy")
    assert trained(compiled, 96) == trained(eager, 96)
    assert "the gradient step is compiled" in compiled.log.sentences and "acting is compiled" in compiled.log.sentences
    assert_same_training(eager, compiled, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cell, layout", [("Lstm", "separate"), ("Gru", "shared")])
def test_one_step_is_the_eager_one_and_a_kept_graph_takes_it_again(cell, layout, tmp_path, monkeypatch):
    """By the gradient alone: Adam would make a large difference of one of rounding, where a gradient is nearly 0."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    kwargs = dict(policy_kwargs(layout), optimizer_class=th.optim.SGD)
    settings = dict(n_steps=8, batch_size=24, n_epochs=1, learning_rate=0.5, seed=0, device=DEVICE, policy_kwargs=kwargs)
    models = [PPO(f"Mlp{cell}Policy", scripted(), compile=compile, **settings) for compile in (False, True, True)]
    before = [p.detach().clone() for p in models[0].policy.parameters()]
    for model in models:
        trained(model, 24)
    eager, compiled, loaded = ([*model.policy.parameters()] for model in models)
    assert len(kept_graphs.graphs(tmp_path)) == 3  # acting, the evaluation and the step
    assert any((x - y).abs().max() > 1e-2 for x, y in zip(eager, before, strict=True))
    for x, y, z in zip(eager, compiled, loaded, strict=True):
        th.testing.assert_close(y, x, rtol=0, atol=1e-5)
        assert th.equal(z, y)


WHOLE = {
    "A2C": (A2C, {}, 3),
    "NPG": (NPG, dict(batch_size=12, n_critic_updates=2, cg_max_steps=2), 6),
    "TRPO": (TRPO, dict(critic="trust_region", cg_max_steps=2), 8),
}


@pytest.mark.parametrize("cell, layout, case", each_value(CELLS, LAYOUTS, WHOLE))
def test_whole_rollouts(cell, layout, case):
    """The rollouts have different sequences, but each function has one graph."""
    algorithm, settings, n_graphs = WHOLE[case]
    check(twice(algorithm, f"Mlp{cell}Policy", layout=layout, **settings), n_graphs)


@pytest.mark.parametrize("make", [envs, lambda: envs(action_space=MIXED)], ids=["Box", "mixed actions"])
def test_natural_gradients_of_other_distributions(make):
    check(twice(TRPO, make=make, batch_size=8, n_critic_updates=2, cg_max_steps=2), n_graphs=6)


NO_KERNEL = {
    "float64": (
        double_policy(),
        {},
        "recurrent networks are compiled in float32 on the CPU, and the policy's are float64 on cpu",
    ),
    "dropout": ("MlpLstmPolicy", dict(n_lstm_layers=2, lstm_kwargs=dict(dropout=0.5)), "it draws random numbers"),
}


@pytest.mark.parametrize("case", NO_KERNEL)
def test_what_has_no_kernel_learns_uncompiled(case):
    policy, kwargs, reason = NO_KERNEL[case]
    settings = dict(n_steps=8, batch_size=12, seed=0, device=DEVICE, policy_kwargs=policy_kwargs(**kwargs))
    eager, compiled = (PPO(policy, scripted(), compile=compile, **settings) for compile in (False, True))
    expected = trained(eager, 24)
    with using_backend(lambda graph, examples: graph), pytest.warns(UserWarning, match="compile=True") as caught:
        assert trained(compiled, 24) == expected
    said = [str(warning.message) for warning in caught]
    uncompiled = ["the gradient step", "the evaluation of sequences"] if case == "float64" else ["the gradient step"]
    for sentence, what in zip(said, uncompiled, strict=True):
        assert sentence.startswith(f"compile=True: {what} runs uncompiled: {reason}")
