"""Compiled and uncompiled trainings of NPG and TRPO: the same policies, random numbers and graphs."""

import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from support.capabilities import MIXED, OwnExtractor
from support.eager_and_compiled import envs, make, pair, trained
from support.models import assert_same, parameters

BOX = spaces.Box(-1, 1, (2,), "float32")
DICT = spaces.Dict({"vector": BOX, "number": spaces.Discrete(3)})
PARTS = ["gradient", "curvature", "measure"]
CELLS = {
    "Box": ("trpo", "sgd", lambda: {}),
    "Discrete": ("npg", "trust_region", lambda: dict(env=envs(action_space=spaces.Discrete(3)))),
    "MultiDiscrete": ("trpo", "trust_region", lambda: dict(env=envs(action_space=spaces.MultiDiscrete([2, 3])))),
    "MultiBinary": ("npg", "sgd", lambda: dict(env=envs(action_space=spaces.MultiBinary(3)))),
    "Dict actions": ("trpo", "sgd", lambda: dict(env=envs(action_space=MIXED))),
    "gSDE": ("trpo", "trust_region", lambda: dict(use_sde=True)),
    "Dict observations": ("trpo", "sgd", lambda: dict(env=envs(DICT, BOX), policy="MultiInputPolicy")),
    "a shared extractor": ("npg", "trust_region", lambda: dict(policy_kwargs=dict(features_extractor_class=OwnExtractor))),
    "a sample of the states": ("trpo", "trust_region", lambda: dict(sub_sampling_factor=3)),
}


@pytest.mark.parametrize(
    "cell", mostly_slow(CELLS, ["Discrete", "Dict actions", "gSDE", "Dict observations", "a sample of the states"])
)
def test_a_compiled_training_is_the_uncompiled_one(cell, graphs):
    name, critic, case = CELLS[cell]
    eager, compiled = models = pair(name, case, critic=critic, n_steps=12, batch_size=8, cg_max_steps=5)
    results = [trained(model, timesteps=48) for model in models]
    assert results[0] == results[1], "random numbers were drawn differently"
    before, (expected, reached) = parameters(make(name, **case())), map(parameters, models)
    for key in expected:
        th.testing.assert_close(reached[key], expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert any((expected[key] - before[key]).norm() > 1e-3 for key in before)
    assert eager._n_updates == compiled._n_updates == 2
    parts = ["acting", "the evaluation of a rollout", *(f"the {part} of the policy" for part in PARTS)]
    parts += ["the gradient step"] if critic == "sgd" else [f"the {part} of the critic" for part in PARTS]
    assert compiled.log.sentences == [f"{part} is compiled" for part in parts] and len(graphs) == len(parts)


def test_layers_that_are_frozen_between_two_trainings_stay_and_are_thawed_again(graphs):
    models = pair("trpo", policy_kwargs=dict(net_arch=[8, 8]), critic="trust_region")
    for model in models:
        trained(model)
        layers = model.policy.mlp_extractor.policy_net[0], model.policy.mlp_extractor.value_net[0]
        for frozen in (True, False):
            for layer in layers:
                layer.requires_grad_(not frozen)
            before = [{key: p.clone() for key, p in layer.state_dict().items()} for layer in layers]
            whole = parameters(model)
            trained(model, reset_num_timesteps=False)
            for layer, state in zip(layers, before, strict=True):
                if frozen:
                    assert_same(layer.state_dict(), state)
                else:
                    assert all(not th.equal(p, state[key]) for key, p in layer.state_dict().items())
            assert sum(not th.equal(p, whole[key]) for key, p in parameters(model).items()) > 4
    for key, p in parameters(models[0]).items():
        th.testing.assert_close(parameters(models[1])[key], p, rtol=1e-3, atol=1e-4)


def test_values_that_change_need_no_new_graph(graphs):
    models = pair("npg", critic="trust_region")
    for model in models:
        trained(model)
    made = len(graphs)
    for model in models:
        model.target_kl, model.cg_damping, model.learning_rate, model.critic_epsilon = 0.002, 0.5, 1e-2, 0.5
        trained(model, reset_num_timesteps=False)
    assert len(graphs) == made > 0
    for key, p in parameters(models[0]).items():
        th.testing.assert_close(parameters(models[1])[key], p, rtol=1e-3, atol=1e-4)


def test_a_batch_larger_than_the_rollout_is_the_whole_rollout_and_compiled(graphs):
    models = pair("trpo", n_steps=6, batch_size=128)
    for model in models:
        trained(model)
    assert models[1].log.sentences[-1] == "the gradient step is compiled"
    for key, p in parameters(models[0]).items():
        th.testing.assert_close(parameters(models[1])[key], p, rtol=1e-4, atol=1e-5)
