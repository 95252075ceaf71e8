"""Actors without a critic, standard deviations with options, and which parameters belong to whom."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from support.small_environments import DEVICE, AnySpace, ScriptedDict, vectorised

from sb3_pgx import A2C, REINFORCE, REINFORCEBaseline
from sb3_pgx.core.distributions import packed
from sb3_pgx.core.policies import ActorPolicy, GaussianStdPolicy, split_parameters, unchecked

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


def env(observation_space=BOX, action_space=spaces.Box(-1, 1, (2,), np.float32)):  # noqa: B008
    return vectorised(AnySpace(observation_space, action_space))


@pytest.mark.parametrize("policy, space", [("MlpPolicy", BOX), ("CnnPolicy", IMAGE)])
@pytest.mark.parametrize("kwargs", [{}, dict(share_features_extractor=False), dict(net_arch=dict(pi=[8], vf=[9, 9]))])
def test_reinforce_builds_no_critic(policy, space, kwargs):
    model = REINFORCE(policy, env(space), policy_kwargs=kwargs, device=DEVICE)
    actor, critic = split_parameters(model.policy)
    everything = dict(model.policy.named_parameters())
    assert set(everything) == set(actor) and not critic
    in_optimizer = [p for g in model.policy.optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in in_optimizer} == {id(p) for p in everything.values()}
    observation = th.zeros(4, *model.observation_space.shape, device=DEVICE)
    assert th.equal(model.policy.predict_values(observation), th.zeros(4, 1, device=DEVICE))


class BringsACritic(ActorCriticPolicy):
    """A user's policy with a critic, whose layers have names of their own."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.judge = self.value_net  # the same layer under another name


def test_a_critic_that_a_users_policy_brings_along_is_left_alone():
    model = REINFORCE(BringsACritic, env(), device=DEVICE, seed=0)
    in_optimizer = {id(p) for g in model.policy.optimizer.param_groups for p in g["params"]}
    critic = {n: p for n, p in model.policy.named_parameters() if "value" in n or "judge" in n}
    assert critic and not any(id(p) in in_optimizer for p in critic.values())
    before = {n: p.detach().clone() for n, p in critic.items()}
    model.learn(40)
    assert all(th.equal(before[n], p) and p.grad is None for n, p in critic.items())


def test_parameters_are_told_apart_by_what_depends_on_them():
    separate = A2C("MlpPolicy", env(), device=DEVICE).policy
    actor, critic = split_parameters(separate)
    assert actor.keys().isdisjoint(critic) and "log_std" in actor
    assert set(actor) | set(critic) == set(dict(separate.named_parameters()))
    shared = A2C("CnnPolicy", env(IMAGE), device=DEVICE).policy
    actor, critic = split_parameters(shared)
    assert {n.split(".")[0] for n in actor.keys() & critic.keys()} == {"features_extractor"}
    dictionary = A2C("MultiInputPolicy", vectorised(ScriptedDict([3])), device=DEVICE).policy
    assert all(split_parameters(dictionary))


def std_of(model, observation):
    tensor, _ = model.policy.obs_to_tensor(observation)
    with th.no_grad():
        return model.policy.get_distribution(tensor).distribution.stddev


@pytest.mark.parametrize("model_class", [A2C, REINFORCE, REINFORCEBaseline])
@pytest.mark.parametrize("state_dependent", [False, True])
def test_bounded_std_starts_where_asked_and_never_leaves_its_bounds(model_class, state_dependent):
    kwargs = dict(log_std_bounds=(-3, 1), state_dependent_std=state_dependent, log_std_init=-0.5)
    model = model_class("MlpPolicy", env(), policy_kwargs=kwargs, device=DEVICE, seed=0)
    observation = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(std_of(model, observation).cpu(), np.exp(-0.5), rtol=0.05 if state_dependent else 1e-4)
    for extreme, bound in ((1e4, np.exp(1.0)), (-1e4, np.exp(-3.0))):
        target = model.policy.log_std_net.bias if state_dependent else model.policy.log_std
        with th.no_grad():
            target.fill_(extreme)
        np.testing.assert_allclose(std_of(model, observation).cpu(), bound, rtol=1e-5)


def test_a_bounded_std_beyond_its_bound_still_has_a_gradient():
    policy = A2C("MlpPolicy", env(), policy_kwargs=dict(log_std_bounds=(-3, 1)), device=DEVICE).policy
    with th.no_grad():
        policy.log_std.fill_(8.0)
    policy.get_distribution(th.zeros(1, 3, device=DEVICE)).distribution.stddev.sum().backward()
    assert (policy.log_std.grad > 0).all()


def test_state_dependent_std_depends_on_the_state_and_is_trained():
    model = REINFORCEBaseline("MlpPolicy", env(), policy_kwargs=dict(state_dependent_std=True), device=DEVICE, seed=0)
    before = model.policy.log_std_net.weight.detach().clone()
    model.learn(60)
    assert not th.equal(before, model.policy.log_std_net.weight)
    a, b = std_of(model, np.ones((1, 3), np.float32)), std_of(model, -np.ones((1, 3), np.float32))
    assert not th.allclose(a, b)


def test_without_the_options_the_policy_is_sb3s_own_class():
    assert type(A2C("MlpPolicy", env(), device=DEVICE).policy) is ActorCriticPolicy
    assert type(A2C("MlpPolicy", env(), policy_kwargs=dict(log_std_bounds=(-3, 1)), device=DEVICE).policy) is GaussianStdPolicy


@pytest.mark.parametrize(
    "kwargs, use_sde, action_space, message",
    [
        (dict(log_std_bounds=(-3, 1)), True, spaces.Box(-1, 1, (2,), np.float32), "use_sde=False"),
        (dict(state_dependent_std=True), False, spaces.Discrete(2), "Box actions"),
        (dict(log_std_bounds=(-3, np.inf)), False, spaces.Box(-1, 1, (2,), np.float32), "must be finite"),
        (dict(log_std_bounds=(1, 2)), False, spaces.Box(-1, 1, (2,), np.float32), "enclose log_std_init"),
    ],
)
def test_std_options_where_they_make_no_sense_are_an_error(kwargs, use_sde, action_space, message):
    with pytest.raises(ValueError, match=message):
        A2C("MlpPolicy", env(action_space=action_space), use_sde=use_sde, policy_kwargs=kwargs, device=DEVICE)


def test_std_options_for_a_users_own_class_are_refused_with_the_class_to_derive_from():
    with pytest.raises(ValueError, match=r"BringsACritic does not take log_std_bounds .*GaussianStdPolicy"):
        A2C(BringsACritic, env(), policy_kwargs=dict(log_std_bounds=(-3, 1)), device=DEVICE)


@pytest.mark.parametrize("training", [True, False])
def test_telling_parameters_apart_leaves_the_policys_mode(training):
    policy = A2C("MlpPolicy", env(), device=DEVICE).policy
    policy.set_training_mode(training)
    split_parameters(policy)
    assert policy.training is training


def test_an_optimizer_that_makes_its_state_at_once_is_saved_and_loaded(tmp_path):
    kwargs = dict(optimizer_class=th.optim.Adagrad)
    model = REINFORCE(ActorCriticPolicy, env(), policy_kwargs=kwargs, device=DEVICE).learn(20)
    model.save(tmp_path / "model")
    REINFORCE.load(tmp_path / "model", env=env(), device=DEVICE).learn(20)


def test_a_layer_that_is_unfrozen_later_is_trained():
    model = REINFORCE("MlpPolicy", env(), n_episodes=1, device=DEVICE, seed=0)
    weight = model.policy.mlp_extractor.policy_net[0].weight
    before = weight.requires_grad_(False).clone()
    model.learn(5)
    assert th.equal(weight, before)
    weight.requires_grad_(True)
    model.learn(5)
    assert not th.equal(weight, before)


def test_a_policy_without_a_critic_is_refused_by_the_algorithm_that_fits_one():
    with pytest.raises(ValueError, match="ActorPolicy has no trainable critic"):
        REINFORCEBaseline(ActorPolicy, env(), device=DEVICE)


def test_a_policy_saved_without_sharing_loads_without_sharing(tmp_path):
    kwargs = dict(share_features_extractor=False, log_std_bounds=(-3, 1))
    policy = A2C("CnnPolicy", env(IMAGE), policy_kwargs=kwargs, device=DEVICE).policy
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy", device=DEVICE)
    observation = th.randint(0, 255, (2, 1, 36, 36), device=DEVICE)
    th.testing.assert_close(loaded.get_distribution(observation).mode(), policy.get_distribution(observation).mode())
    assert not loaded.share_features_extractor and loaded.log_std_bounds == (-3, 1)


# ------------------------------------------------------------------------------------------------------- unchecked


class Tempered(ActorCriticPolicy):
    """A user's policy with a distribution of its own making."""

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi) / 0.1)


class OwnDistribution(CategoricalDistribution):
    """A user's distribution."""

    def entropy(self):
        return 2 * super().entropy()


def with_own_distribution(*args, **kwargs):
    policy = ActorCriticPolicy(*args, **kwargs)
    policy.action_dist = OwnDistribution(policy.action_space.n)
    return policy


def with_own_method(*args, **kwargs):
    policy = Tempered(*args, **kwargs)
    tempered, policy.__class__ = policy._get_action_dist_from_latent, ActorCriticPolicy
    policy._get_action_dist_from_latent = tempered
    return policy


@pytest.mark.parametrize(
    "make, action_space",
    [
        *((make, spaces.Discrete(3)) for make in (ActorCriticPolicy, Tempered, with_own_distribution, with_own_method)),
        (ActorCriticPolicy, BOX),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_evaluated_unchecked_is_what_the_policy_evaluates(make, action_space, shared):
    th.manual_seed(0)
    policy = make(BOX, action_space, lambda _: 1e-3, share_features_extractor=shared, ortho_init=False).to(DEVICE)
    observations = th.randn(7, 3, device=DEVICE)
    with th.no_grad():
        actions = policy.get_distribution(observations).sample()
    before = policy.action_dist
    results = []
    for context in (nullcontext(), unchecked(policy)):
        with context:
            values, log_prob, entropy = policy.evaluate_actions(observations, actions)
            parameters = packed(policy.action_dist)
        loss = values.sum() + (log_prob * entropy).sum()
        results.append((values, log_prob, entropy, parameters, *th.autograd.grad(loss, list(policy.parameters()))))
        assert policy.action_dist is before
    th.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_sb3s_own_choice_is_evaluated_without_torchs_checks_and_only_within_the_context():
    policy = ActorCriticPolicy(BOX, spaces.Discrete(3), lambda _: 1e-3).to(DEVICE)
    observations = th.full((2, 3), th.nan, device=DEVICE)
    actions = th.zeros(2, dtype=th.long, device=DEVICE)
    with pytest.raises(KeyboardInterrupt), unchecked(policy):
        assert all(x.isnan().all() for x in policy.evaluate_actions(observations, actions)), "not a number stays visible"
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        policy.evaluate_actions(observations, actions)
