"""TRPO's step against dense linear algebra and a search through all lengths; its bound; and what happens without a step."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import each_value, mostly_slow
from support.capabilities import BOX
from support.dense_natural_gradient import KINDS, Updated, Updates, double_model, in_double, is_actors
from support.eager_and_compiled import envs
from support.models import Coarse, Watched, kl_of, make, parameters
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import TRPO

TIGHT = dict(cg_max_steps=200, cg_tolerance=1e-10)


def longest_step(update, full, target_kl, shrink=0.8, tries=10):
    """The longest of the steps that keeps the bound and improves the surrogate, and how many are as long or longer."""
    before = update.surrogate(update.old)
    for k in range(tries):
        policy = update.moved(shrink**k * full)
        if update.kl(policy).mean() <= target_kl and update.surrogate(policy) > before:
            return shrink**k * full, k + 1
    raise AssertionError("none is accepted")


# ------------------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize(
    "kind, target_kl",
    mostly_slow(itertools.product(KINDS, [1e-3, 0.3]), lambda kind, target_kl: target_kl == 0.3 or kind == "Discrete"),
)
def test_the_step_is_that_of_a_dense_solution_and_of_the_greatest_length_within_the_bound(kind, target_kl):
    """√(2δ / gᵀF⁻¹g) F⁻¹g; the pseudo-inverse where logits that shift together leave directions without curvature."""
    update = Updated(double_model("trpo", **KINDS[kind], **TIGHT, n_steps=32, cg_damping=0.0, target_kl=target_kl))
    F, g = update.fisher(), update.gradient()
    s = th.linalg.pinv(F, hermitian=True, rtol=1e-10) @ g
    expected, tried = longest_step(update, math.sqrt(2 * target_kl / (g @ s)) * s, target_kl)
    th.testing.assert_close(update.step, expected, rtol=1e-7, atol=1e-9)
    assert update.metrics["line_search_steps"] == tried and update.metrics["is_line_search_success"] == 1.0
    assert update.kl(update.new).mean() <= target_kl and update.surrogate(update.new) > update.surrogate(update.old)


@pytest.mark.parametrize("shrink, tries", [(0.8, 10), (0.5, 4), (0.97, 60)])
def test_damping_is_part_of_the_solution_and_of_the_length(shrink, tries):
    settings = dict(cg_damping=0.05, line_search_shrinking_factor=shrink, line_search_max_iter=tries, target_kl=0.3)
    update = Updated(double_model("trpo", **KINDS["gSDE"], **TIGHT, **settings))
    F, g = update.fisher(), update.gradient()
    damped = F + 0.05 * th.eye(len(F)).to(F)
    s = th.linalg.solve(damped, g)
    expected, tried = longest_step(update, math.sqrt(0.6 / (s @ damped @ s)) * s, 0.3, shrink, tries)
    th.testing.assert_close(update.step, expected, rtol=1e-7, atol=1e-9)
    assert update.metrics["line_search_steps"] == tried > 1
    assert update.metrics["curvature"] == pytest.approx((s @ F @ s).item(), rel=1e-6)
    assert update.metrics["step_length"] == pytest.approx((update.step.norm() / s.norm()).item(), rel=1e-6)


@pytest.mark.parametrize("kind, normalize_advantage", each_value(["Discrete", "MultiBinary", "Box", "gSDE"], [True, False]))
def test_metrics_are_those_of_the_old_and_the_new_policy_over_all_rows(kind, normalize_advantage):
    update = Updated(double_model("trpo", **KINDS[kind], target_kl=0.3, normalize_advantage=normalize_advantage))
    kl, before, after = update.kl(update.new), update.surrogate(update.old), update.surrogate(update.new)
    expected = {
        "kl_divergence_loss": kl.mean().item(),
        "kl_max": kl.max().item(),
        "policy_objective": after,
        "surrogate_improvement": after - before,
        "predicted_improvement": (update.gradient() @ update.step).item(),
    }
    assert len(kl) == 16 and kl.mean() > 0.05
    assert {name: update.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_the_residual_that_is_logged_is_that_of_the_damped_system():
    update = Updated(double_model("trpo", cg_max_steps=4, cg_damping=0.02))
    F, g = update.fisher(), update.gradient()
    s = update.step / update.metrics["step_length"]
    residual = (g - F @ s - 0.02 * s).norm() / g.norm()
    assert update.metrics["cg_steps"] == 4 and residual > 1e-3
    assert update.metrics["cg_residual"] == pytest.approx(residual.item(), rel=1e-6)


# ------------------------------------------------------------------------------------------------------- the bound


def actions(dimensions):
    return spaces.Box(-1, 1, (dimensions,), np.float32)


@pytest.mark.parametrize(
    "dimensions, use_sde, compile",
    mostly_slow(
        [(6, False, False), (6, True, False), (17, False, False), (17, True, False), (6, True, True)],
        [(6, False, False), (17, True, False), (6, True, True)],
    ),
)
def test_after_every_update_the_kl_summed_over_the_action_is_within_the_bound(dimensions, use_sde, compile, graphs):
    callback, target_kl = Updates(), 0.01
    model = TRPO(
        "MlpPolicy", envs(action_space=actions(dimensions)), n_steps=32, n_critic_updates=1, target_kl=target_kl,
        use_sde=use_sde, policy_kwargs=dict(net_arch=[8]), batch_size=64, seed=0, device=DEVICE, compile=compile,
    )  # fmt: skip
    model.learn(64 * 4, callback=callback)
    assert len(callback.metrics) == 4
    for rollout, *policies, metrics in zip(callback.rollouts, callback.before, callback.after, callback.metrics, strict=True):
        kl = kl_of(*map(in_double, policies), rollout.rows().observations)
        assert kl.mean() <= target_kl * (1 + 1e-4)
        assert kl.mean() > 0.2 * target_kl and metrics["is_line_search_success"] == 1.0
        assert metrics["kl_divergence_loss"] == pytest.approx(kl.mean().item(), rel=1e-3)
        assert metrics["kl_max"] == pytest.approx(kl.max().item(), rel=1e-3)


@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_the_bound_follows_a_schedule_down_to_nothing(name):
    callback = Updates()
    model = make(name, n_steps=32, target_kl="lin_0.08", normalize_advantage=False)
    model.learn(model.n_envs * 32 * 4, callback=callback)
    moved = []
    for rollout, old, new in zip(callback.rollouts, callback.before, callback.after, strict=True):
        moved.append(kl_of(old, new, rollout.rows().observations).mean().item())
    bounds = np.array([0.06, 0.04, 0.02, 0.0])  # of the progress that remains when an update begins
    assert (np.array(moved) <= bounds * (1.2 if name == "npg" else 1 + 1e-3) + 1e-9).all() and moved[2] > 0.3 * bounds[2]
    before, after = ({n: p for n, p in policy.named_parameters() if is_actors(n)} for policy in (old, new))
    assert before and all(th.equal(before[n], after[n]) for n in before)


# ------------------------------------------------------------------------------------------------------- without a step


class Punished(AnySpace):
    """Every action costs its square: log σ falls at once, and a KL grows like the square of what σ is divided by."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, -float(np.square(action).sum()), *rest


CRITICS = pytest.mark.parametrize("critic", ["sgd", "trust_region"])
NOTHING = ["kl_divergence_loss", "kl_max", "is_line_search_success", "step_length", "surrogate_improvement"]


def fails(**kwargs):
    env = vectorised(*(Punished(copy.deepcopy(BOX), copy.deepcopy(actions(6))) for _ in range(2)))
    settings = dict(target_kl=5.0, line_search_max_iter=1, n_steps=16, batch_size=32, n_critic_updates=2)
    return TRPO("MlpPolicy", env, seed=0, device=DEVICE, policy_kwargs=dict(net_arch=[8]), **{**settings, **kwargs})


def assert_only_the_critic_learned(callback, steps=1):
    for old, new, metrics in zip(callback.before, callback.after, callback.metrics, strict=True):
        changed = {n for n, p in old.state_dict().items() if not th.equal(p, new.state_dict()[n])}
        assert changed and not any(map(is_actors, changed))
        assert [metrics[name] for name in NOTHING] == [0.0] * len(NOTHING)
        assert metrics["predicted_improvement"] == 0.0 and metrics["line_search_steps"] == steps
    assert callback.metrics


@pytest.mark.parametrize(
    "critic, compile, target_kl",
    [("sgd", False, 5.0), ("trust_region", False, 5.0), ("trust_region", True, 5.0), ("sgd", False, 1e38)],
)
def test_where_no_length_keeps_the_bound_the_actor_stays_bit_for_bit_and_the_critic_learns(critic, compile, target_kl, graphs):
    callback = Updates()
    fails(critic=critic, compile=compile, target_kl=target_kl).learn(64, callback=callback)
    assert_only_the_critic_learned(callback)
    for metrics in callback.metrics:  # of the policy that stays: the mean of standardised advantages
        assert metrics["policy_objective"] == pytest.approx(0.0, abs=1e-6)


@CRITICS
def test_where_no_length_improves_the_surrogate_all_are_tried_and_the_actor_stays_bit_for_bit(critic):
    distances, callback = [], Updates()
    model = fails(critic=critic, target_kl=0.01, line_search_max_iter=5, compile=False)
    model.policy.action_net = th.nn.Sequential(Watched(model.policy.action_net, distances.append), Coarse())
    model.policy.log_std.requires_grad_(False)
    model.learn(32, callback=callback)
    lengths = [distance for distance in distances if distance > 0]
    assert_only_the_critic_learned(callback, steps=5)
    np.testing.assert_allclose(lengths, lengths[0] * 0.8 ** np.arange(5), rtol=1e-4)


@CRITICS
def test_without_a_gradient_the_actor_stays_bit_for_bit_and_the_critic_learns(critic):
    class Constant(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 1.0, *rest

    callback = Updates()
    model = TRPO("MlpPolicy", vectorised(Constant([1])), n_steps=8, batch_size=8, critic=critic, seed=0, device=DEVICE)
    th.nn.init.zeros_(model.policy.value_net.weight)  # all advantages are 1, and standardised 0
    model.learn(8, callback=callback)
    assert_only_the_critic_learned(callback, steps=0)
    assert callback.metrics[0]["cg_steps"] == 0


@pytest.mark.parametrize("part", ["policy", "critic"])
@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_what_interrupts_a_step_leaves_the_parameters_bit_for_bit(name, part):
    def interrupt(distance):
        if distance > 0:
            raise KeyboardInterrupt

    model = make(name, critic="trust_region")
    layer = "action_net" if part == "policy" else "value_net"
    setattr(model.policy, layer, Watched(getattr(model.policy, layer), interrupt))
    before = parameters(model)
    with pytest.raises(KeyboardInterrupt):
        model.learn(12)
    after = parameters(model)
    moved = {key for key in before if not th.equal(before[key], after[key])}
    assert not [key for key in moved if is_actors(key) == (part == "policy")]
    assert bool(moved) == (part == "critic"), "the policy has moved before its critic"


def test_after_a_failure_the_next_update_starts_where_the_policy_is():
    callback = Updates()
    model = fails()
    model.learn(32, callback=callback)
    model.line_search_max_iter, model.target_kl = 10, 0.01
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert [metrics["is_line_search_success"] for metrics in callback.metrics] == [0.0, 1.0]
    old, new = callback.before[1], callback.after[1]
    assert all(th.equal(p, q) for p, q in zip(old.parameters(), callback.after[0].parameters(), strict=True))
    assert 0.002 < kl_of(old, new, callback.rollouts[1].rows().observations).mean() <= 0.01 * (1 + 1e-4)


# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(line_search_max_iter=0), "line_search_max_iter=0 must be a whole number, at least 1"),
        (dict(line_search_max_iter=2.0), "line_search_max_iter=2.0 must be a whole number"),
        *(
            (dict(line_search_shrinking_factor=x), f"line_search_shrinking_factor={x} must be between 0 and 1")
            for x in (0.0, 1.0, -0.5, 1.5, math.nan)
        ),
        (dict(target_kl=0.0), "target_kl=0.0 must be positive"),
        (dict(cg_damping=-0.1), "cg_damping=-0.1 must be finite and not negative"),
        (dict(critic="adam"), "critic='adam' is unknown; choose one of 'sgd', 'trust_region'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        TRPO("MlpPolicy", vectorised(Scripted([3])), n_steps=8, batch_size=8, device=DEVICE, **arguments)


def test_the_step_rules_of_npg_are_no_arguments_of_trpo():
    with pytest.raises(TypeError, match="step_rule"):
        TRPO("MlpPolicy", vectorised(Scripted([3])), step_rule="fixed")
