"""What NPG and TRPO refuse: arguments, policies, and steps that are not finite."""

import copy
import math
import warnings

import pytest
import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import BOX, OwnExtractor
from support.dense_natural_gradient import is_actors
from support.eager_and_compiled import make
from support.models import assert_same, parameters
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import NPG, TRPO
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.core.policies import ActorPolicy

# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        *((dict(target_kl=x), f"target_kl={x} must be positive and finite") for x in (0.0, -0.01, math.inf, math.nan, None)),
        (dict(target_kl="lin_-0.01"), 'target_kl="lin_-0.01" is not a schedule'),
        (dict(target_kl=lambda progress: -progress), "target_kl"),
        *((dict(cg_max_steps=x), f"cg_max_steps={x} must be a whole number, at least 1") for x in (0, -1, 1.5)),
        *((dict(cg_damping=x), f"cg_damping={x} must be finite and not negative") for x in (-0.1, math.inf, math.nan)),
        *((dict(cg_tolerance=x), f"cg_tolerance={x} must be finite and not negative") for x in (-1e-9, math.nan)),
        (dict(cg_tolerance=1.0), "cg_tolerance=1.0 must be below 1: the policy would never move"),
        *((dict(step_size=x), f"step_size={x} must be positive and finite") for x in (0.0, -1.0, math.inf)),
        *((dict(critic_epsilon=x), f"critic_epsilon={x} must be positive and finite") for x in (0.0, -1.0)),
        (dict(sub_sampling_factor=0), "sub_sampling_factor=0 must be a whole number, at least 1"),
        (dict(n_critic_updates=0), "n_critic_updates=0 must be a whole number, at least 1"),
        (dict(batch_size=0), "batch_size=0 must be a whole number, at least 1"),
        (dict(n_steps=0), "n_steps=0 must be a whole number, at least 1"),
        (dict(step_rule="adaptive"), "step_rule='adaptive' is unknown; choose one of 'kl', 'fixed'"),
        (dict(critic="lbfgs"), "critic='lbfgs' is unknown; choose one of 'sgd', 'trust_region'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        NPG("MlpPolicy", vectorised(Scripted([3])), device=DEVICE, **{"n_steps": 8, "batch_size": 8, **arguments})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target_kl=-0.01), "target_kl=-0.01"),
        (dict(critic="foo"), "critic='foo'"),
        (dict(cg_damping=-1.0), "cg_damping=-1"),
    ],
)
def test_an_attribute_that_is_set_to_what_makes_no_sense_is_refused_before_the_next_update(change, message):
    model = make("trpo").learn(12)
    for name, value in change.items():
        setattr(model, name, value)
    before = parameters(model)
    with pytest.raises(ValueError, match=message):
        model.learn(12, reset_num_timesteps=False)
    assert_same(parameters(model), before)


class Attention(OwnExtractor):
    def forward(self, observations):
        x = super().forward(observations)[:, None, None]  # [B, heads, length, features]
        return th.nn.functional.scaled_dot_product_attention(x, x, x)[:, 0, 0]


@pytest.mark.parametrize("compile", [False, True])
def test_a_layer_without_a_forward_derivative_is_named_with_the_algorithm_that_needs_none(compile, graphs):
    model = make("trpo", policy_kwargs=dict(features_extractor_class=Attention), compile=compile)
    before = parameters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            ValueError, match=r"TRPO needs second derivatives .*scaled_dot_product.*or use PPO, which needs first"
        ):
            model.learn(12)
    assert_same(parameters(model), before)


@pytest.mark.parametrize("model_class", [NPG, TRPO])
def test_the_advantage_of_a_single_row_cannot_be_standardised(model_class):
    with pytest.raises(AssertionError, match=r"normalize_advantage=True needs more than one row: n_steps \* n_envs = 1"):
        model_class("MlpPolicy", vectorised(Scripted([3])), n_steps=1, batch_size=1, device=DEVICE)
    kwargs = dict(n_steps=1, batch_size=1, normalize_advantage=False, seed=0, device=DEVICE)
    assert model_class("MlpPolicy", vectorised(Scripted([3])), **kwargs).learn(2)._n_updates == 2


NATURAL = pytest.mark.parametrize("model_class", [NPG, TRPO])
# A distribution of a user's own, whose divergence nobody knows.
OwnDistribution = type("OwnDistribution", (Distribution,), dict.fromkeys(Distribution.__abstractmethods__))


class PolicyOfOnesOwn(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = OwnDistribution()


@NATURAL
def test_a_distribution_without_a_known_divergence_is_refused_with_the_algorithm_that_needs_none(model_class):
    message = (
        rf"{model_class.__name__} needs the KL divergence.*OwnDistribution is no distribution.*or PPO, which needs neither"
    )
    with pytest.raises(ValueError, match=message):
        model_class(PolicyOfOnesOwn, vectorised(Scripted([3])), device=DEVICE)


@NATURAL
def test_a_policy_without_a_critic_is_refused_with_the_algorithm_that_needs_none(model_class):
    with pytest.raises(ValueError, match=rf"ActorPolicy has no trainable critic.*{model_class.__name__} needs one: use"):
        model_class(ActorPolicy, vectorised(Scripted([3])), device=DEVICE)


@NATURAL
def test_a_learning_rate_that_follows_the_divergence_is_refused(model_class):
    with pytest.raises(ValueError, match=rf"{model_class.__name__} takes one step a rollout"):
        model_class("MlpPolicy", vectorised(Scripted([3])), learning_rate=KLAdaptiveLearningRate(1e-3), device=DEVICE)


# ------------------------------------------------------------------------------------------------------- not finite


def refused_update(name, message, **kwargs):
    """The message of an update that is refused, and that leaves all parameters as they are."""
    model = make(name, n_steps=8, **kwargs)
    before = parameters(model)
    with pytest.raises(ValueError, match=message) as error:
        model.learn(16)
    assert_same(parameters(model), before)
    assert "in update 1; the step was not taken, and the model is as it was before this rollout" in str(error.value)
    assert model._n_updates == 0
    return model


class Steep(OwnExtractor):
    """Finite, with a gradient that is not."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.root = th.nn.Parameter(th.zeros(1))

    def forward(self, observations):
        return super().forward(observations) + self.root.square().sqrt()


@pytest.mark.parametrize("name, compile", [("npg", False), ("trpo", False), ("trpo", True)])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves(name, compile, graphs):
    policy_kwargs = dict(features_extractor_class=Steep)
    refused_update(name, "gradient of features_extractor.root is not finite", policy_kwargs=policy_kwargs, compile=compile)


class Huge(AnySpace):
    """Rewards whose sum overflows."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 3e38, *rest


@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_advantages_that_are_not_finite_are_named_and_nothing_moves(name):
    env = vectorised(*(Huge(copy.deepcopy(BOX), copy.deepcopy(BOX)) for _ in range(2)))
    refused_update(name, "the advantages are not finite", env=env)


@pytest.mark.parametrize("compile", [False, True])
def test_a_fixed_step_that_leads_nowhere_is_refused_and_nothing_moves(compile, graphs):
    refused_update("npg", "the full step leads to a KL divergence of", step_rule="fixed", step_size=1e30)


class WrongSecondDerivative(th.nn.Module):
    """A layer with the gradient of the identity, and a second derivative of the wrong sign."""

    class Backward(th.autograd.Function):
        @staticmethod
        def forward(gradient):
            return gradient.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, tangent):
            return -tangent

    class Identity(Backward):
        @staticmethod
        def backward(ctx, gradient):
            return WrongSecondDerivative.Backward.apply(gradient)

    def forward(self, x):
        return self.Identity.apply(x)


@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_where_the_curvature_is_not_positive_there_is_a_warning_and_no_step(name):
    model = make(name, n_steps=8, cg_damping=1e-3, compile=False)
    model.policy.action_net = th.nn.Sequential(model.policy.action_net, WrongSecondDerivative())
    model.policy.log_std.requires_grad_(False)
    before = parameters(model)
    with pytest.warns(UserWarning, match=r"no positive curvature after 0 steps in update 1 .*; raise cg_damping=0\.001"):
        model.learn(16)
    assert_same(*({key: p for key, p in state.items() if is_actors(key)} for state in (parameters(model), before)))
    logged = model.logger.name_to_value
    assert logged["train/kl_divergence_loss"] == logged["train/step_length"] == logged["train/cg_steps"] == 0.0


@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_a_critic_of_whom_a_gradient_is_not_finite_undoes_the_policys_step(name):
    class OwnSteep(Steep):
        pass

    policy_kwargs = dict(features_extractor_class=OwnSteep, share_features_extractor=False)
    model = make(name, n_steps=8, policy_kwargs=policy_kwargs, critic="trust_region")
    with th.no_grad():
        model.policy.pi_features_extractor.root.fill_(1.0)
    before, taken, search = parameters(model), [], model.search

    def watched(*args):
        found = search(*args)
        taken.append(parameters(model))
        return found

    model.search = watched
    with pytest.raises(ValueError, match=r"gradient of vf_features_extractor\.root is not finite in update 1"):
        model.learn(16)
    assert any(not th.equal(p, before[key]) for key, p in taken[0].items() if is_actors(key))
    assert_same(parameters(model), before)
