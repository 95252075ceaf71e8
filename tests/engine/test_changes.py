"""Changes between two trainings: a compiled model sees them as an eager one does, and makes a new graph only where it must."""

import copy
from dataclasses import replace

import pytest
import torch as th
from selection import mostly_slow
from support.eager_and_compiled import MOSTLY_PPO, ON_POLICY, assert_same_training, envs, pair, trained
from support.small_environments import DEVICE

# ------------------------------------------------------------------------------------------------------- values and structure


@ON_POLICY
def test_numbers_that_change_need_no_new_graph(name, graphs):
    schedules = dict(learning_rate="lin_0.01", ent_coef="lin_0.1", **({"clip_range": "lin_0.2"} if name == "ppo" else {}))
    models = pair(name, **schedules)
    for model in models:
        trained(model, 36)
    count = len(graphs)
    for change in (
        lambda m: setattr(m, "ent_coef", 0.3),
        lambda m: setattr(m, "vf_coef", "lin_0.9"),
        lambda m: setattr(m, "learning_rate", 0.003),
        lambda m: setattr(m, "max_grad_norm", 0.05),
        lambda m: m.policy.optimizer.param_groups[0].update(eps=1e-2, weight_decay=0.1),
        lambda m: name == "ppo" and setattr(m, "clip_range", lambda _: 0.01),
        lambda m: name == "ppo" and setattr(m, "target_kl", 0.02),
    ):
        for model in models:
            change(model)
            trained(model, reset_num_timesteps=False)
        assert_same_training(*models)
        assert len(graphs) == count


def test_what_is_part_of_the_graph_makes_a_new_one(graphs):
    models = pair("ppo")
    for model in models:
        trained(model)
    for attribute, value in {"normalize_advantage": False, "clip_range_vf": lambda _: 0.1, "batch_size": 6}.items():
        count = len(graphs)
        for model in models:
            setattr(model, attribute, value)
            trained(model, reset_num_timesteps=False)
        assert_same_training(*models)
        assert len(graphs) == count + 1


@ON_POLICY
def test_an_objective_of_ones_own_is_that_of_the_next_update(name, graphs):
    models = pair(name)
    for model in models:
        trained(model)
    count = len(graphs)
    inner = models[0].objective.measure

    def with_greater_values(now, batch, c):
        measured = inner(now, batch, c)
        return {**measured, "loss": measured["loss"] - 5.0 * now.values.mean()}

    for model in models:
        model.objective = replace(model.objective, measure=with_greater_values)
        before = model.policy.value_net.bias.item()
        trained(model, reset_num_timesteps=False)
        assert model.policy.value_net.bias.item() > before
    assert_same_training(*models)
    assert len(graphs) == count + 1


def _load(model):
    state = {key: value * 0.5 for key, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(state)


def _load_optimizer(model):
    state = copy.deepcopy(model.policy.optimizer.state_dict())
    for moments in state["state"].values():
        moments["step"] += 100 if isinstance(moments["step"], int) else th.tensor(100.0)
    model.policy.optimizer.load_state_dict(state)


def _new_memory(model):
    for p in model.policy.parameters():
        p.data = p.data.clone() * 0.5


def _new_optimizer(model):
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.01, momentum=0.5)


def _forget_moments(model):
    model.policy.optimizer.state.clear()


def _new_layer(model):
    th.manual_seed(1)
    model.policy.value_net = th.nn.Linear(8, 1).to(DEVICE)
    _new_optimizer(model)


def _leave_out(model):
    group = model.policy.optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if p is not model.policy.action_net.bias]
    del model.policy.optimizer.state[model.policy.action_net.bias]


def _new_environment(model):
    env = envs()
    env.seed(5)
    model.set_env(env)


ACTING, EVALUATION, STEP = GRAPHS = ["acting", "the evaluation of a rollout", "the gradient step"]
# What happens, and which graphs are made anew for it: none for other values, one for each part whose structure is another.
CHANGES = {
    "other parameters": (_load, []),
    "other moments": (_load_optimizer, []),
    "parameters elsewhere in memory": (_new_memory, []),
    "moved to the device": (lambda model: model.policy.to(DEVICE), []),
    "another optimizer": (_new_optimizer, [STEP]),
    "no moments": (_forget_moments, []),
    "a new layer": (_new_layer, [ACTING, EVALUATION, STEP]),  # acting, too: it is traced with the policy as a whole
    "a parameter that the optimizer does not have": (_leave_out, [STEP]),
    "a new environment": (_new_environment, []),
    "loaded parameters": (lambda model: model.set_parameters(copy.deepcopy(model.get_parameters())), []),
}


def compiled_parts(model):
    """What the model has said that it compiled, in order."""
    return [sentence.removesuffix(" is compiled") for sentence in model.log.sentences if sentence.endswith(" is compiled")]


@pytest.mark.parametrize("change", mostly_slow(CHANGES, [*CHANGES][::2]))
@MOSTLY_PPO
def test_what_happens_between_two_trainings_is_seen(name, change, graphs):
    models = pair(name)
    act, anew = CHANGES[change]
    for model in models:
        trained(model)
        before = [p.detach().clone() for p in model.policy.parameters()]
        act(model)
        trained(model, reset_num_timesteps=False)
        assert any(not th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    at_start, later = ([part for part in parts if name != "ppo_penalty" or part != EVALUATION] for parts in (GRAPHS, anew))
    parts = compiled_parts(models[1])
    assert sorted(parts[: len(at_start)]) == sorted(at_start)  # in an order of each algorithm
    assert parts[len(at_start) :] == later and len(graphs) == len(parts)
    assert_same_training(*models)


def test_moments_in_another_memory_layout_get_a_graph_of_their_own(graphs):
    models = pair("a2c")  # whose graph changes the optimizer's own moments
    for model in models:
        trained(model)
        for state in model.policy.optimizer.state.values():
            state["square_avg"] = state["square_avg"].t().contiguous().t()
        trained(model, reset_num_timesteps=False)
    assert compiled_parts(models[1]) == [*GRAPHS, STEP]
    assert_same_training(*models)


# ------------------------------------------------------------------------------------------------------- frozen layers


@ON_POLICY
def test_frozen_layers_stay_exactly_as_they_are_until_they_are_thawed(name, graphs):
    models = pair(name, policy_kwargs=dict(net_arch=[8, 8]))
    for model in models:
        trained(model)
        layer = model.policy.mlp_extractor.policy_net[0]
        before = copy.deepcopy(layer.state_dict())
        moments = copy.deepcopy(model.policy.optimizer.state[layer.weight])
        layer.requires_grad_(False)
        trained(model, reset_num_timesteps=False)
        assert all(th.equal(value, before[key]) for key, value in layer.state_dict().items())
        after = model.policy.optimizer.state[layer.weight]
        assert all(th.equal(th.as_tensor(after[key]), th.as_tensor(moments[key])) for key in moments)
    assert_same_training(*models)
    for model in models:
        model.policy.mlp_extractor.policy_net[0].requires_grad_(True)
        trained(model, reset_num_timesteps=False)
        layer = model.policy.mlp_extractor.policy_net[0]
        assert not th.equal(layer.weight, before["weight"])
    assert_same_training(*models)


def test_layers_that_were_frozen_from_the_start_stay(graphs):
    models = pair("ppo")
    for model in models:
        model.policy.action_net.requires_grad_(False)
        before = model.policy.action_net.weight.clone()
        trained(model)
        assert (
            th.equal(model.policy.action_net.weight, before)
            and model.policy.action_net.weight not in model.policy.optimizer.state
        )
    assert_same_training(*models)
    assert len(graphs) == 3
