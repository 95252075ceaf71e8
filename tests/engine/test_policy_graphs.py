"""Compiled acting and evaluation: whole rollouts are the eager ones and SB3's, and own methods are asked."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.vec_transpose import VecTransposeImage
from support.capabilities import BOX, DICT, FAR, IMAGE, MIXED
from support.eager_and_compiled import envs
from support.observers import Watch, watched
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import A2C, PPO
from sb3_pgx.engine.policy_graphs import MAX_EVALUATED_ROWS, MAX_EVALUATED_STEPS

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
