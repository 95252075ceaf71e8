"""PPOPenalty's penalty, hinge and clip against dense Fisher matrices, closed forms and finite differences in float64."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from support.models import ACTION_SPACES, kl_of
from support.small_environments import DEVICE, AnySpace, DoubleFeatures, vectorised

from sb3_pgx import PPOPenalty
from sb3_pgx.core.distributions import packed
from sb3_pgx.core.rollout import Batch
from sb3_pgx.ops.objectives import kl_hinge

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

BOX = spaces.Box(-1, 1, (3,), np.float32)
EXACT = dict(rtol=1e-9, atol=1e-11)


class DoublePolicy(ActorCriticPolicy):
    """Float64 actions, too: those of a Bernoulli distribution would bring its log-probabilities down to float32."""

    def evaluate_actions(self, obs, actions):
        return super().evaluate_actions(obs, actions.double() if actions.is_floating_point() else actions)


def small_model(action_space=ACTION_SPACES["Discrete"], **kwargs):
    """One hidden layer of two, in float64; nothing in the loss but surrogate and penalty."""
    policy_kwargs = dict(net_arch=dict(pi=[2], vf=[]), features_extractor_class=DoubleFeatures, ortho_init=False)
    settings = dict(n_steps=16, batch_size=16, normalize_advantage=False, vf_coef=0.0, policy_kwargs=policy_kwargs)
    env = vectorised(AnySpace(BOX, action_space))
    model = PPOPenalty(DoublePolicy, env, device=DEVICE, seed=0, compile=False, **{**settings, **kwargs})
    model.policy.double()
    return model


def actors(model):
    return [p for name, p in model.policy.named_parameters() if "value" not in name]


def shifted(model, size=0.4):
    """A copy whose actor has been moved a little, in all directions."""
    generator = th.Generator(device=DEVICE).manual_seed(1)
    other = copy.deepcopy(model.policy)
    with th.no_grad():
        for name, p in other.named_parameters():
            if "value" not in name:
                p.add_(size * th.randn(p.shape, generator=generator, dtype=p.dtype))
    return other


def rows(policy, n=4, advantages=None):
    """Rows on which ``policy`` acted."""
    x = th.rand(n, 3, generator=th.Generator(device=DEVICE).manual_seed(2)) * 2 - 1
    with th.no_grad():
        th.manual_seed(3)
        actions = policy.get_distribution(x).get_actions().double()
        given = actions.flatten() if isinstance(policy.action_space, spaces.Discrete) else actions
        values, log_prob, _ = policy.evaluate_actions(x, given)
        parameters = packed(policy.action_dist)
    zero = th.zeros(n, dtype=th.float64)
    advantages = zero if advantages is None else advantages
    return Batch(x, actions.view(n, -1), values.flatten(), log_prob, advantages, zero, parameters)


def measured_by(model, batch, c):
    """The loss and the metrics of the algorithm's objective."""
    return model.objective.measure(model.objective.evaluate(model.policy, batch), batch, c)


def loss(model, batch, **coefficients):
    """What the algorithm descends on, with the coefficients that are given in place of its own."""
    return measured_by(model, batch, model.coefficients()._replace(**coefficients))["loss"]


def flat_grad(value, parameters, **kwargs):
    return th.cat([g.flatten() for g in th.autograd.grad(value, parameters, **kwargs)])


def move(model, direction, size):
    with th.no_grad():
        vector = th.nn.utils.parameters_to_vector(actors(model)) + size * direction
        th.nn.utils.vector_to_parameters(vector, actors(model))


def slope(model, batch, direction, h=1e-5, **coefficients):
    """Derivative of the loss along a direction by central differences."""
    values = []
    for sign in (1, -1):
        move(model, direction, sign * h)
        values.append(loss(model, batch, **coefficients).item())
        move(model, direction, -sign * h)
    return (values[0] - values[1]) / (2 * h)


def directions(model, n=3):
    size = sum(p.numel() for p in actors(model))
    return th.randn(n, size, generator=th.Generator(device=DEVICE).manual_seed(4), dtype=th.float64)


# ------------------------------------------------------------------------------------------------------- the penalty


def actions_and_weights(policy, x):
    """Enumeration of all actions of one state with their probabilities; for a Gaussian the nodes of its quadrature."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        nodes, weights = (th.from_numpy(v).to(x.device) for v in np.polynomial.hermite_e.hermegauss(5))
        with th.no_grad():
            normal = policy.get_distribution(x).distribution
        grid = th.cartesian_prod(nodes, nodes)
        weight = th.cartesian_prod(weights, weights).prod(dim=1) / (2 * math.pi)
        return normal.mean + normal.stddev * grid, weight
    if isinstance(space, spaces.Discrete):
        every = th.arange(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        every = th.cartesian_prod(*(th.arange(int(n)) for n in space.nvec))
    else:
        every = th.cartesian_prod(*(th.arange(2) for _ in range(space.n))).double()
    with th.no_grad():
        _, log_prob, _ = policy.evaluate_actions(x.expand(len(every), -1), every)
    return every, log_prob.exp()


def fisher(model, observations):
    """Mean over states of E_a[∇log π ∇log πᵀ], one backward pass an action."""
    total = 0.0
    for x in observations:
        every, weights = actions_and_weights(model.policy, x[None])
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
        for action, weight in zip(every, weights, strict=True):
            _, log_prob, _ = model.policy.evaluate_actions(x[None], action[None])
            score = flat_grad(log_prob.sum(), actors(model))
            total = total + weight * th.outer(score, score)
    return total / len(observations)


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_at_the_old_policy_the_penalty_has_no_gradient_and_the_fisher_matrix_as_hessian(kind):
    model = small_model(ACTION_SPACES[kind])
    batch = rows(model.policy)
    penalty = loss(model, batch, kl_coef=1.0)
    assert penalty.item() == pytest.approx(0.0, abs=1e-14)
    gradient = flat_grad(penalty, actors(model), create_graph=True)
    th.testing.assert_close(gradient.detach(), th.zeros_like(gradient), rtol=0, atol=1e-12)
    hessian = th.stack([flat_grad(g, actors(model), retain_graph=True) for g in gradient])
    expected = fisher(model, batch.observations)
    assert expected.norm() > 0.1
    th.testing.assert_close(hessian, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_the_penalty_is_beta_times_torchs_kl_from_old_to_new(kind):
    model = small_model(ACTION_SPACES[kind])
    old, batch = copy.deepcopy(model.policy), rows(model.policy, n=6)
    model.policy.load_state_dict(shifted(model).state_dict())
    forward, backward = (mean_kl(*pair, batch.observations) for pair in ((old, model.policy), (model.policy, old)))
    assert abs(forward / backward - 1) > 0.01
    assert loss(model, batch, kl_coef=3.0).item() == pytest.approx(3 * forward, rel=1e-10)


def mean_kl(old, new, observations):
    return kl_of(old, new, observations).mean().item()


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("hinge_coef", [0.0, 20.0])
def test_away_from_the_old_policy_the_gradient_is_that_of_finite_differences(kind, hinge_coef):
    model = small_model(ACTION_SPACES[kind], target_kl=0.001, hinge_coef=hinge_coef)
    A = th.tensor([1.0, -2.0, 0.5, 3.0], dtype=th.float64)
    batch = rows(model.policy, advantages=A)
    model.policy.load_state_dict(shifted(model).state_dict())
    gradient = flat_grad(loss(model, batch, kl_coef=2.0), actors(model))
    for direction in directions(model):
        expected = slope(model, batch, direction, kl_coef=2.0)
        assert (gradient @ direction).item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_as_beta_goes_to_zero_the_gradient_is_that_of_the_plain_surrogate():
    """r A ∇log π with the ratio as it is, however far it has moved: there is no clip."""
    model = small_model()
    A = th.tensor([1.0, -2.0, 0.5, 3.0], dtype=th.float64)
    batch = rows(model.policy, advantages=A)
    batch.log_prob += th.tensor([-0.7, 0.7, 0.0, 0.9])
    model.policy.load_state_dict(shifted(model).state_dict())
    _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions.flatten())
    ratio = (log_prob - batch.log_prob).exp().detach()
    assert (ratio < 0.8).any() and (ratio > 1.2).any()
    expected = -sum(
        r * a * flat_grad(lp, actors(model), retain_graph=True) for r, a, lp in zip(ratio, A, log_prob, strict=True)
    )
    expected = expected / len(A)
    th.testing.assert_close(flat_grad(loss(model, batch, kl_coef=0.0), actors(model)), expected, **EXACT)
    penalty = flat_grad(loss(model, batch, kl_coef=1.0), actors(model)) - expected
    nearly = flat_grad(loss(model, batch, kl_coef=1e-6), actors(model)) - expected
    assert penalty.norm() > 0.01
    th.testing.assert_close(nearly, 1e-6 * penalty, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- hinge and clip


@pytest.mark.parametrize("target_kl, expected", [(0.1, 0.0), (0.05, 0.0), (0.04, 0.0004), (0.01, 0.0064)])
def test_the_hinge_is_nothing_up_to_twice_the_target_and_the_excess_squared_beyond(target_kl, expected):
    kl = th.tensor(0.1, dtype=th.float64, requires_grad=True)
    value = kl_hinge(kl, target_kl)
    assert value.item() == pytest.approx(expected, abs=1e-15)
    (gradient,) = th.autograd.grad(value, kl)
    h = 1e-6
    by_differences = (kl_hinge(kl.detach() + h, target_kl) - kl_hinge(kl.detach() - h, target_kl)).item() / (2 * h)
    assert gradient.item() == pytest.approx(by_differences, abs=1e-6)
    assert (gradient.item() == 0) == (expected == 0)


@pytest.mark.parametrize("multiple", [0.5, 1.999, 2.001, 3.0])
def test_the_objective_adds_the_hinge_of_the_minibatchs_kl_with_its_weight(multiple):
    model = small_model()
    old, batch = copy.deepcopy(model.policy), rows(model.policy, n=6)
    model.policy.load_state_dict(shifted(model).state_dict())
    kl = mean_kl(old, model.policy, batch.observations)
    target = kl / multiple
    coefficients = dict(kl_coef=1.5, target_kl=target, hinge_coef=50.0)
    expected = 1.5 * kl + (50.0 * (kl - 2 * target) ** 2 if multiple > 2 else 0.0)
    value = loss(model, batch, **coefficients)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    beta_alone = flat_grad(loss(model, batch, kl_coef=1.0, hinge_coef=0.0), actors(model))
    factor = 1.5 + (100.0 * (kl - 2 * target) if multiple > 2 else 0.0)
    th.testing.assert_close(flat_grad(value, actors(model)), factor * beta_alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 2.0])
def test_a_clip_range_adds_the_clip_and_its_metric(ratio, advantage):
    """One row whose ratio is as given: r A ∇log π, or nothing where r has moved beyond 0.8 or 1.2 as A asks."""
    model = small_model(clip_range=0.2)
    batch = rows(model.policy, n=1, advantages=th.tensor([advantage], dtype=th.float64))
    batch.log_prob = batch.log_prob - math.log(ratio)
    _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions.flatten())
    score = flat_grad(log_prob.sum(), actors(model))
    clipped = ratio > 1.2 if advantage > 0 else ratio < 0.8
    expected = score * (0.0 if clipped else -ratio * advantage)
    th.testing.assert_close(flat_grad(loss(model, batch), actors(model)), expected, **EXACT)
    th.testing.assert_close(flat_grad(loss(model, batch, clip_range=None), actors(model)), -ratio * advantage * score, **EXACT)
    c = model.coefficients()
    measured = measured_by(model, batch, c)
    assert measured["clip_fraction"].item() == (abs(ratio - 1) > 0.2)
    assert "clip_fraction" not in measured_by(model, batch, c._replace(clip_range=None))
