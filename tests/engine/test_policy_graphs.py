"""A policy's passes without gradients: the actions that its own forward would draw, compiled or not."""

import copy
import warnings

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.vec_transpose import VecTransposeImage
from support.capabilities import BOX, DICT, FAR, IMAGE, MIXED
from support.eager_and_compiled import envs, make
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import A2C, PPO
from sb3_pgx.core.distributions import noise_source, sample_with
from sb3_pgx.engine.compiler import using_backend
from sb3_pgx.engine.policy_graphs import MAX_EVALUATED_ROWS, MAX_EVALUATED_STEPS

# ------------------------------------------------------------------------------------------------------- random numbers

POLICIES = {
    "Discrete": dict(action_space=spaces.Discrete(5)),
    "Discrete, one choice": dict(action_space=spaces.Discrete(1)),
    "Box": {},
    "MultiDiscrete": dict(action_space=spaces.MultiDiscrete([2, 4, 3])),
    "MultiBinary": dict(action_space=spaces.MultiBinary(3)),
    "Dict": dict(action_space=MIXED),
    "Tuple": dict(action_space=spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])),
    "gSDE": dict(use_sde=True),
    "gSDE, learned features": dict(use_sde=True, policy_kwargs=dict(full_std=False, use_expln=True)),
    "gSDE, squashed": dict(use_sde=True, action_space=FAR, policy_kwargs=dict(squash_output=True)),
    "bounded std": dict(policy_kwargs=dict(log_std_bounds=(-5, 2))),
    "state-dependent std": dict(policy_kwargs=dict(state_dependent_std=True)),
}


@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize("case", POLICIES)
def test_noise_gives_the_actions_of_the_policys_own_forward_and_leaves_the_generator_as_it_does(case, n):
    kwargs = {"action_space": BOX, **POLICIES[case]}
    env = envs(action_space=kwargs.pop("action_space"), n=n)
    policy_kwargs = dict(net_arch=[8], **kwargs.pop("policy_kwargs", {}))
    policy = A2C("MlpPolicy", env, seed=0, device=DEVICE, policy_kwargs=policy_kwargs, **kwargs).policy
    for p in policy.parameters():  # away from the start, where all choices are alike
        p.data += 0.3 * th.randn_like(p)
    for attempt in range(5):
        observations = th.randn(n, 3, device=DEVICE)
        th.manual_seed(attempt)
        if "gSDE" in case:
            policy.reset_noise(n)
        with th.no_grad(), th.random.fork_rng():
            numbers = noise_source(policy.action_dist, n, policy.device)()
            actions = sample_with(policy.get_distribution(observations), numbers)
            drawn = th.rand(3)
        with th.no_grad():
            expected, _, _ = policy(observations)
        assert th.equal(th.rand(3), drawn), "the generator is not where sampling leaves it"
        assert actions.dtype == expected.dtype and th.equal(actions.reshape(expected.shape), expected)


def test_noise_of_another_number_of_states_is_the_first_environments_as_in_sb3():
    policy = A2C("MlpPolicy", envs(n=3), use_sde=True, seed=0, device=DEVICE).policy
    policy.reset_noise(3)
    observations = th.randn(2, 3, device=DEVICE)
    with th.no_grad():
        expected, _, _ = policy(observations)
        actions = sample_with(policy.get_distribution(observations), noise_source(policy.action_dist, 2, policy.device)())
    assert th.equal(actions, expected)


@pytest.mark.parametrize("p", [[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 1.0, 0.0], [1e-6, 0.9, 0.1 - 1e-6, 0.0]])
def test_choices_are_drawn_with_their_probabilities(p):
    n = 100_000
    policy = A2C("MlpPolicy", envs(action_space=spaces.Discrete(4), n=1), seed=0, device=DEVICE).policy
    th.manual_seed(0)
    distribution = policy.action_dist.proba_distribution(th.tensor(p, device=DEVICE).log().clamp(min=-1e30).expand(n, 4))
    chosen = sample_with(distribution, noise_source(distribution, n, policy.device)())
    frequencies = chosen.bincount(minlength=4).double().cpu() / n
    expected = th.tensor(p, dtype=th.float64)
    assert ((frequencies - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()
    assert (frequencies[expected == 0] == 0).all()


# ------------------------------------------------------------------------------------------------------- whole rollouts


class Watch(BaseCallback):
    """Keeps what is done and what is said of it."""

    def __init__(self):
        super().__init__()
        self.actions, self.evaluations = [], []

    def _on_step(self):
        self.actions.append(self.locals["actions"].copy())
        return True

    def _on_rollout_end(self):
        rollout = self.model.last_rollout
        parts = (rollout.values, rollout.log_prob, rollout.last_values, rollout.next_values)
        self.evaluations.append([*parts, rollout.advantages, rollout.returns])


ENVIRONMENTS = {
    "Box": lambda: ("MlpPolicy", envs(), {}),
    "Box, unbounded": lambda: ("MlpPolicy", envs(spaces.Box(-np.inf, np.inf, (3,), np.float64)), {}),
    "Discrete observations": lambda: ("MlpPolicy", envs(spaces.Discrete(4), spaces.Discrete(3)), {}),
    "MultiDiscrete observations": lambda: ("MlpPolicy", envs(spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)), {}),
    "MultiBinary observations": lambda: ("MlpPolicy", envs(spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3])), {}),
    "Dict observations": lambda: ("MultiInputPolicy", envs(DICT, spaces.Discrete(3)), {}),
    "images": lambda: ("CnnPolicy", envs(IMAGE, spaces.Discrete(3)), {}),
    "VecNormalize": lambda: ("MlpPolicy", VecNormalize(envs()), {}),
    "gSDE": lambda: ("MlpPolicy", envs(), dict(use_sde=True, sde_sample_freq=3)),
    "Dict actions": lambda: ("MlpPolicy", envs(action_space=MIXED), {}),
    "Dict actions, Dict observations": lambda: ("MultiInputPolicy", envs(DICT, MIXED), {}),
    "Tuple actions": lambda: ("MlpPolicy", envs(action_space=spaces.Tuple([BOX, spaces.MultiDiscrete([2, 3])])), {}),
    "gSDE, one environment": lambda: ("MlpPolicy", envs(n=1), dict(use_sde=True, sde_sample_freq=3)),
    "gSDE, squashed": lambda: (
        "MlpPolicy",
        envs(action_space=FAR),
        dict(use_sde=True, policy_kwargs=dict(net_arch=[8], squash_output=True)),
    ),
    "separate extractors": lambda: (
        "MultiInputPolicy",
        envs(DICT),
        dict(policy_kwargs=dict(net_arch=[8], share_features_extractor=False)),
    ),
}


def watched(model, timesteps=48):
    """What a training did, and where it left the generators."""
    watch = Watch()
    model.learn(timesteps, callback=watch)
    return watch, (np.random.rand(), th.rand(1).item())


@pytest.mark.parametrize("case", mostly_slow(ENVIRONMENTS, [*ENVIRONMENTS][::3]))
def test_compiled_acting_and_evaluation_are_the_eager_ones(case, graphs):
    results = []
    for compile in (False, True):
        policy, env, kwargs = ENVIRONMENTS[case]()
        model = PPO(policy, env, n_steps=12, batch_size=12, n_epochs=1, seed=0, device=DEVICE, compile=compile, **kwargs)
        assert case != "images" or is_vecenv_wrapped(model.env, VecTransposeImage)
        results.append(watched(model))
    (eager, eager_numbers), (compiled, numbers) = results
    np.testing.assert_allclose(np.stack(compiled.actions), np.stack(eager.actions), rtol=1e-4, atol=1e-5)
    assert [a.dtype for a in compiled.actions] == [a.dtype for a in eager.actions]
    for ours, theirs in zip(compiled.evaluations, eager.evaluations, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert numbers == eager_numbers, "random numbers were drawn differently"
    assert len(graphs) == 3


def test_compiled_acting_does_what_sb3_does(graphs):
    """Not only what we do without compiling."""
    kwargs = dict(n_steps=12, batch_size=12, n_epochs=1, seed=0, device=DEVICE)
    for case in ("Box", "Dict observations", "gSDE"):
        actions = []
        for cls, own in ((sb3.PPO, {}), (PPO, dict(compile=True))):
            policy, env, others = ENVIRONMENTS[case]()
            watch = Watch()
            watch._on_rollout_end = lambda: None
            cls(policy, env, **kwargs, **others, **own).learn(48, callback=watch)
            actions.append(np.stack(watch.actions))
        np.testing.assert_allclose(*actions, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 9


class OwnForward(ActorCriticPolicy):
    """Always plays the last choice."""

    calls = 0

    def forward(self, obs, deterministic=False):
        type(self).calls += 1
        actions, values, log_prob = super().forward(obs, deterministic)
        return th.full_like(actions, 2), values, th.full_like(log_prob, -0.5)


def test_a_policy_with_its_own_forward_acts_through_it(graphs):
    env, watch = envs(action_space=spaces.Discrete(3)), Watch()
    model = PPO(OwnForward, env, n_steps=12, batch_size=12, n_epochs=1, seed=0, device=DEVICE, compile=True)
    before = OwnForward.calls
    model.learn(48, callback=watch)
    assert OwnForward.calls - before == 24
    assert (np.stack(watch.actions) == 2).all()
    assert all((log_prob == -0.5).all() for _, log_prob, *_ in watch.evaluations), "they are those that acting gave"
    assert len(graphs) == 1, "the step alone"


@pytest.mark.parametrize(
    "n_steps, n_envs, by_graph",
    [
        (MAX_EVALUATED_STEPS, 2, True),
        (MAX_EVALUATED_STEPS + 1, 2, False),
        (MAX_EVALUATED_STEPS, MAX_EVALUATED_ROWS // MAX_EVALUATED_STEPS, True),
        (MAX_EVALUATED_STEPS, MAX_EVALUATED_ROWS // MAX_EVALUATED_STEPS + 1, False),
    ],
)
def test_long_rollouts_are_evaluated_eagerly(n_steps, n_envs, by_graph, graphs):
    rows = n_steps * n_envs
    PPO("MlpPolicy", envs(n=n_envs), n_steps=n_steps, batch_size=rows, seed=0, device=DEVICE, compile=True).learn(rows)
    assert len(graphs) == 2 + by_graph


class Double(th.nn.Module):
    """A layer that changes the type alone."""

    def forward(self, x):
        return x.double()


def test_values_wider_than_the_parameters_complete_truncated_episodes_as_they_do_eagerly(graphs):
    def rollout(compile):
        model = A2C(
            "MlpPolicy",
            vectorised(*(AnySpace(BOX, spaces.Discrete(3)) for _ in range(2))),
            n_steps=6,
            seed=0,
            compile=compile,
            device=DEVICE,
        )
        model.policy.value_net = th.nn.Sequential(model.policy.value_net, Double())
        return model.learn(12).last_rollout

    compiled, eager = rollout(True), rollout(False)
    assert len(graphs) >= 2 and eager.truncated.any() and eager.next_values[eager.truncated].abs().min() > 1e-4
    th.testing.assert_close(compiled.next_values, eager.next_values, rtol=1e-5, atol=1e-6)


def test_discounts_that_change_need_no_new_graph(graphs):
    results = []
    for compile in (False, True):
        model = A2C("MlpPolicy", envs(), n_steps=12, gae_lambda=0.9, seed=0, device=DEVICE, compile=compile)
        model.learn(24, callback=(watch := Watch()))
        before = len(graphs)
        model.gamma, model.gae_lambda = 0.5, 0.1
        model.learn(24, callback=watch)
        assert len(graphs) == before == 3 * compile
        results.append(watch.evaluations)
    th.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", ["evaluate", "estimate"])
@pytest.mark.parametrize("where", ["class", "object"])
def test_a_stage_of_ones_own_is_asked(stage, where, graphs):
    def own(self, rollout):
        if stage == "estimate":
            rollout.rewards = rollout.rewards + 1.0
        result = getattr(A2C, stage)(self, rollout)
        if stage == "evaluate":
            result.next_values = result.next_values + 2.0
        return result

    kind = type("Own", (A2C,), {stage: own}) if where == "class" else A2C
    model = kind("MlpPolicy", envs(), n_steps=12, gae_lambda=0.0, gamma=0.5, seed=0, device=DEVICE, compile=True)
    if where == "object":
        setattr(model, stage, own.__get__(model))
    model.learn(24, callback=(watch := Watch()))
    plain = A2C("MlpPolicy", envs(), n_steps=12, gae_lambda=0.0, gamma=0.5, seed=0, device=DEVICE, compile=False)
    plain.learn(24, callback=(expected := Watch()))
    th.testing.assert_close(watch.evaluations[0][4], expected.evaluations[0][4] + 1.0, rtol=1e-4, atol=1e-4)


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
    """Its critic draws random numbers, which no graph can."""

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
