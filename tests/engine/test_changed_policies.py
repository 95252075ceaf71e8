"""A policy that changes while a run acts by graphs: it acts and is evaluated as it is then, hooks and errors included."""

import copy
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import BOX
from support.eager_and_compiled import envs, make
from support.observers import Watch, watched
from support.small_environments import DEVICE

from sb3_pgx import A2C, PPO
from sb3_pgx.engine.compiler import using_backend


def test_parameters_that_a_callback_changes_in_the_middle_of_a_rollout_are_those_that_act(graphs):
    class Changes(Watch):
        def _on_step(self):
            if self.n_calls == 3:
                state = {key: value + 1.0 for key, value in self.model.policy.state_dict().items()}
                self.model.policy.load_state_dict(state)
            return super()._on_step()

    results = []
    for compile in (False, True):
        model = PPO("MlpPolicy", envs(), n_steps=12, batch_size=12, n_epochs=1, seed=0, device=DEVICE, compile=compile)
        model.learn(24, callback=(watch := Changes()))
        results.append(np.stack(watch.actions))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)
    assert abs(results[0][:3]).max() + 1 < abs(results[0][3:]).max(), "the change is large"


def _put_elsewhere(model):
    for p in model.policy.parameters():
        p.data = p.data + 0.1


def _transpose(model):
    layer = model.policy.mlp_extractor.policy_net[2]
    layer.weight.data = layer.weight.data.t()


def _replace_layer(model):
    th.manual_seed(7)
    model.policy.action_net = th.nn.Linear(8, 3).to(DEVICE)


def _replace_policy(model):
    th.manual_seed(8)
    with th.no_grad():
        model.policy = copy.deepcopy(model.policy)
        model.policy.action_net.bias += 2.0


def _hook(model):
    model.policy.action_net.register_forward_hook(lambda module, inputs, output: output + 1.0)


class Changing(Watch):
    """Changes the policy when the second rollout starts, and again with its last step."""

    def __init__(self, change):
        super().__init__()
        self.change, self.rollouts = change, 0

    def _on_rollout_start(self):
        self.rollouts += 1
        if self.rollouts == 2:
            self.change(self.model)

    def _on_step(self):
        if self.n_calls == 24:
            self.change(self.model)
        return super()._on_step()


@pytest.mark.parametrize(
    "change",
    mostly_slow(
        [_put_elsewhere, _transpose, _replace_layer, _replace_policy, _hook], [_transpose, _replace_layer, _replace_policy]
    ),
)
def test_a_policy_that_a_callback_changes_acts_and_is_evaluated_as_it_is_then(change, graphs):
    results = []
    for compile in (False, True):
        policy_kwargs = dict(net_arch=[8, 8])
        model = A2C("MlpPolicy", envs(), n_steps=12, seed=0, device=DEVICE, compile=compile, policy_kwargs=policy_kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a hook: it runs uncompiled
            model.learn(72, callback=(watch := Changing(change)))
        results.append(watch)
    eager, compiled = results
    # A new policy has an optimizer of its own, which moves the old one's parameters: both go on alike all the same.
    np.testing.assert_allclose(np.stack(compiled.actions), np.stack(eager.actions), rtol=1e-4, atol=1e-4)
    th.testing.assert_close(compiled.evaluations, eager.evaluations, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [2, 1])  # as many as environments; SB3's default, one for all
def test_noise_that_a_callback_draws_anew_acts_at_once_and_has_no_history(n, graphs):
    class Draws(Watch):
        def _on_step(self):
            if self.n_calls % 5 == 3:
                self.model.policy.reset_noise(n)  # without no_grad
            return super()._on_step()

    results = []
    for compile in (False, True):
        model = A2C("MlpPolicy", envs(), n_steps=12, use_sde=True, seed=0, device=DEVICE, compile=compile)
        model.learn(48, callback=(watch := Draws()))
        results.append(np.stack(watch.actions))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)


class NoisyCritic(ActorCriticPolicy):
    """Its critic draws random numbers, which a compiled graph cannot do."""

    def predict_values(self, obs):
        return super().predict_values(obs) + th.rand(1, device=obs.device)

    def evaluate_actions(self, obs, actions):
        values, *others = super().evaluate_actions(obs, actions)
        return values + 0.0 * th.rand(1, device=values.device), *others


@pytest.mark.filterwarnings("ignore:compile=True")
def test_where_nothing_can_be_compiled_the_critic_draws_no_more_than_without(graphs):
    results = []
    for compile in (False, True):
        model = A2C(NoisyCritic, envs(), n_steps=12, seed=0, device=DEVICE, compile=compile)
        results.append(watched(model, 72))
    (eager, numbers), (compiled, others) = results
    assert numbers == others
    th.testing.assert_close(compiled.evaluations, eager.evaluations, rtol=1e-4, atol=1e-4)


class Proud(ActorCriticPolicy):
    def evaluate_actions(self, obs, actions):
        raise ValueError("seven sensors are needed")


def test_an_error_of_a_policys_own_is_not_taken_for_one_of_numbers():
    with pytest.raises(ValueError, match="seven sensors"):
        A2C(Proud, envs(), seed=0, device=DEVICE, compile=False).learn(24)


@pytest.mark.parametrize(
    "action_space", [BOX, spaces.Discrete(3), spaces.MultiBinary(2)], ids=["Box", "Discrete", "MultiBinary"]
)
def test_a_policy_whose_parameters_are_not_finite_does_not_act_unnoticed(action_space, graphs):
    model = PPO("MlpPolicy", envs(action_space=action_space), n_steps=12, batch_size=12, seed=0, device=DEVICE, compile=True)
    model.learn(24)
    with th.no_grad():
        model.policy.action_net.bias[0] = th.nan
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match="not finite"):
        model.learn(24)
    for key, value in model.policy.state_dict().items():
        th.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------------- in the middle


def _replace_activation(model):
    model.policy.mlp_extractor.policy_net[1] = th.nn.ReLU()


def _append_layer(model):
    model.policy.mlp_extractor.policy_net.append(th.nn.Tanh())


def _pre_hook(model):
    model.policy.action_net.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1.0,))


MIDDLE = [_put_elsewhere, _replace_layer, _replace_policy, _hook, _pre_hook, _replace_activation, _append_layer]


class InTheMiddle(Watch):
    """Changes the policy with the fourth step of the second rollout; what is done from then on until that rollout ends."""

    def __init__(self, change, n_steps):
        super().__init__()
        self.change, self.when = change, n_steps + 4

    def _on_step(self):
        if self.n_calls == self.when:
            self.change(self.model)
        return super()._on_step()


@pytest.mark.parametrize("change", mostly_slow(MIDDLE, [_put_elsewhere, _replace_layer, _hook]))
@pytest.mark.filterwarnings("ignore:compile=True")
def test_a_policy_that_a_callback_changes_in_the_middle_of_a_rollout_acts_as_it_is_from_the_next_step_on(change, graphs):
    results = []
    for compile in (False, True):
        model = A2C(
            "MlpPolicy", envs(), n_steps=12, seed=0, device=DEVICE, compile=compile, policy_kwargs=dict(net_arch=[8, 8])
        )
        model.learn(48, callback=(watch := InTheMiddle(change, 12)))
        results.append(np.stack(watch.actions))
    assert len(graphs) >= 2
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)
    plain = A2C("MlpPolicy", envs(), n_steps=12, seed=0, device=DEVICE, compile=False, policy_kwargs=dict(net_arch=[8, 8]))
    plain.learn(48, callback=(watch := Watch()))
    assert abs(results[0][16:24] - np.stack(watch.actions)[16:24]).max() > 1e-3, "the change is seen in what is done"


@pytest.mark.filterwarnings("ignore:compile=True")
def test_hooks_for_all_layers_of_the_process_are_called(graphs):
    results = []
    for compile in (False, True):
        model = A2C("MlpPolicy", envs(), n_steps=12, seed=0, device=DEVICE, compile=compile)
        handle = th.nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output: output + 1.0 if isinstance(module, th.nn.Linear) else None
        )
        try:
            model.learn(24, callback=(watch := Watch()))
        finally:
            handle.remove()
        results.append(np.stack(watch.actions))
    assert not graphs
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "a parameter's"]
)
def test_hooks_that_torch_keeps_in_another_place_prevent_compiling(register, graphs, monkeypatch):
    """As if a later version of torch kept them under another name: a graph would leave them out without a word."""
    if register == "a parameter's":
        monkeypatch.setattr(th.Tensor, "register_hook", lambda self, hook: None)
    else:
        monkeypatch.setattr(th.nn.Module, register, lambda self, hook: vars(self).setdefault("_elsewhere", [hook]))
    model = A2C("MlpPolicy", envs(), n_steps=12, seed=0, device=DEVICE, compile=True)
    with pytest.warns(UserWarning, match="runs uncompiled: this version of torch keeps hooks in another place"):
        model.learn(24)
    assert not graphs


PARTS = {
    "a2c": ["the gradient step", "acting", "the evaluation of a rollout"],
    "trpo": [
        "acting",
        "the evaluation of a rollout",
        *(f"the {part} of the {what}" for what in ("policy", "critic") for part in ("gradient", "curvature", "measure")),
    ],
}


# The quick suite interrupts acting and the first part of an update; the rest are alike.
INTERRUPTED = mostly_slow(
    [(name, part) for name, parts in PARTS.items() for part in range(len(parts))],
    lambda name, part: part == 2 or (part == 0 and name == "trpo"),
)


@pytest.mark.parametrize("name, part", INTERRUPTED)
def test_what_is_interrupted_while_it_is_compiled_is_compiled_at_the_next_opportunity(name, part):
    """By Ctrl-C, in each of the parts that are compiled, one after the other."""
    calls = []

    def interrupted_once(graph, examples):
        calls.append(graph)
        if len(calls) == part + 1:
            raise KeyboardInterrupt
        return graph

    kwargs = dict(n_steps=12, **(dict(critic="trust_region") if name == "trpo" else {}))
    model = make(name, compile=True, **kwargs)
    with using_backend(interrupted_once):
        with pytest.raises(KeyboardInterrupt):
            model.learn(48)
        assert len(calls) == part + 1
        model.learn(48)
    assert len(calls) == len(PARTS[name]) + 1
    assert sorted(model.log.sentences) == sorted(f"{what} is compiled" for what in PARTS[name])
