"""Gradients, products and measures around a policy against enumeration of its actions and dense derivatives, in float64."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from support.dense_natural_gradient import (
    KINDS,
    Updated,
    actor_of,
    actor_vector,
    brute_force,
    double_model,
    flat_grad,
    hessian_of_kl,
    in_double,
    log_prob_of,
    mean_outer_product_of_scores,
)
from support.eager_and_compiled import envs, make
from support.models import kl_of
from support.small_environments import DEVICE

from sb3_pgx.algorithms.trust_region_problems import CRITIC, POLICY
from sb3_pgx.core.rollout import PolicyInputs
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.layers import Modules
from sb3_pgx.stages.trust_region import TrustRegion, TrustRegionStep

EXACT = dict(rtol=1e-9, atol=1e-11)
COMPILED = pytest.mark.parametrize("compiled", [False, True])


def kinds(*compiled):
    """All kinds of action distribution, and some of them compiled."""
    return pytest.mark.parametrize("kind, compiled", [(kind, False) for kind in KINDS] + [(kind, True) for kind in compiled])


class Around:
    """A policy that has acted, the rows on which it has, and its surroundings."""

    def __init__(self, policy, batch):
        self.policy, self.batch, self.modules = policy, batch, Modules()
        self.sentences = []
        space, log = policy.observation_space, CompileLog(self.sentences.append)
        self.actors = TrustRegion(POLICY, space, log, "the policy")
        self.critics = TrustRegion(CRITIC, space, log, "the critic")
        policy.set_training_mode(False)

    def actor(self, compiled, moved=None, sample=None):
        data = [self.batch.advantages, self.batch.actions, self.batch.log_prob]
        return self._made(self.actors, moved or list(actor_of(self.policy)), data, sample, compiled)

    def critic(self, compiled):
        moved = [name for name, _ in self.policy.named_parameters() if "value" in name]
        return self._made(self.critics, moved, [self.batch.returns], None, compiled)

    def _made(self, region, moved, data, sample, compiled):
        self.modules.look(self.policy)
        return TrustRegionStep(region, self.policy, self.modules, moved, data, self.batch.inputs, sample, compiled)


def around(kind="Box"):
    update = Updated(double_model("npg", **KINDS[kind], n_steps=4, batch_size=8))
    batch = update.batch
    generator = th.Generator(device=DEVICE).manual_seed(2)
    noise = th.randn(len(batch), generator=generator, dtype=th.float64, device=DEVICE)
    batch.log_prob = batch.log_prob + 0.3 * noise  # as of another policy: ratios that are not 1
    return Around(update.old, batch)


def matrix(here):
    return brute_force(here.product(), len(here.gradient), here.gradient)


def moved_by(policy, step):
    other = copy.deepcopy(policy)
    th.nn.utils.vector_to_parameters(actor_vector(other) + step, actor_of(other).values())
    return other


def some_step(here, size=0.1, seed=3):
    generator = th.Generator(device=DEVICE).manual_seed(seed)
    return size * th.randn(len(here.gradient), generator=generator, dtype=th.float64, device=DEVICE).to(here.gradient)


# ------------------------------------------------------------------------------------------------------- products


@kinds("MultiDiscrete", "MultiBinary", "Box", "gSDE, squashed")
def test_the_product_is_that_with_the_mean_outer_product_of_all_scores(kind, compiled, graphs):
    """Over all parameters of the action distribution. What SB3 keeps out of gSDE's gradients is out of both."""
    problem = around(kind)
    expected = mean_outer_product_of_scores(problem.policy, problem.batch.observations)
    assert expected.norm() > 0.05 and (expected.diagonal() > 0).any()
    th.testing.assert_close(matrix(problem.actor(compiled)), expected, **EXACT)
    assert len(graphs) == 2 * compiled, "the gradient's and the product's"


def test_log_std_is_among_the_parameters_and_has_twice_the_unit_matrix_for_its_block():
    problem = around()
    F = matrix(problem.actor(False, moved=["log_std"]))
    th.testing.assert_close(F, 2 * th.eye(2, dtype=th.float64, device=DEVICE), **EXACT)
    assert "log_std" in actor_of(problem.policy)


@COMPILED
def test_of_some_parameters_it_is_their_part_of_the_matrix(compiled, graphs):
    problem = around()
    whole = hessian_of_kl(problem.policy, problem.batch.observations)
    names = ["action_net.bias", "log_std"]
    places, start = {}, 0
    for name, p in actor_of(problem.policy).items():
        places[name], start = range(start, start + p.numel()), start + p.numel()
    chosen = [i for name in names for i in places[name]]
    here = problem.actor(compiled, moved=names)
    th.testing.assert_close(matrix(here), whole[chosen][:, chosen], **EXACT)
    th.testing.assert_close(here.gradient, problem.actor(compiled).gradient[chosen], **EXACT)
    assert len(graphs) == 3 * compiled, "what moves is part of a graph"


@COMPILED
def test_of_a_sample_of_states_the_product_alone_is_theirs(compiled, graphs):
    problem = around()
    rows = problem.batch.observations[[1, 4, 6]]
    here, full = problem.actor(compiled, sample=PolicyInputs(rows)), problem.actor(compiled)
    th.testing.assert_close(matrix(here), hessian_of_kl(problem.policy, rows), **EXACT)
    assert th.equal(here.gradient, full.gradient) and here.start == full.start


@COMPILED
def test_the_next_product_is_that_of_the_policy_as_it_is_then_and_needs_no_new_graph(compiled, graphs):
    problem = around()
    matrix(problem.actor(compiled))
    before = len(graphs)
    with th.no_grad():
        for p in problem.policy.parameters():
            p.mul_(1.5)
    problem.batch.observations = problem.batch.observations.flip(1)
    expected = hessian_of_kl(problem.policy, problem.batch.observations)
    th.testing.assert_close(matrix(problem.actor(compiled)), expected, **EXACT)
    assert len(graphs) == before == 2 * compiled


@pytest.mark.slow
def test_the_compilers_product_is_the_uncompiled_one():
    problem = around("Discrete")
    here, product = problem.actor(False), problem.actors.product
    inputs = [here.gradient, *product.encode(problem.batch.inputs)]
    compiled = product.run(problem.policy, problem.modules, inputs, True, here.moved)[0]
    # The compiler of torch 2.8 is right to seven digits.
    exact = EXACT if th.__version__ >= "2.9" else dict(rtol=1e-6, atol=1e-8)
    th.testing.assert_close(compiled, here.product()(here.gradient), **exact)
    assert problem.sentences[-1] == "the curvature of the policy is compiled"


PARTS = spaces.Dict({"vector": spaces.Box(-1, 1, (2,), np.float32), "number": spaces.Discrete(3)})
SPACES = {
    "Discrete": ("MlpPolicy", spaces.Discrete(4)),
    "MultiDiscrete": ("MlpPolicy", spaces.MultiDiscrete([2, 3])),
    "Dict": ("MultiInputPolicy", PARTS),
}


@pytest.mark.parametrize("case, compiled", [*((case, False) for case in SPACES), ("Dict", True)])
def test_for_observations_that_are_encoded_the_product_is_that_with_the_hessian_of_the_kl(case, compiled, graphs):
    policy, space = SPACES[case]
    model = make("npg", envs(space, spaces.Discrete(3)), policy, policy_kwargs=dict(net_arch=[4]), compile=False)
    update = Updated(model)
    here = Around(update.old, update.batch).actor(compiled)
    th.testing.assert_close(matrix(here), update.fisher(), rtol=1e-4, atol=1e-6)
    assert len(graphs) == 2 * compiled


# ------------------------------------------------------------------------------------------------------- gradients


@kinds("MultiBinary", "Box")
def test_the_gradient_is_the_mean_of_advantage_times_ratio_times_score(kind, compiled, graphs):
    problem = around(kind)
    here = problem.actor(compiled)
    policy, batch = copy.deepcopy(problem.policy), problem.batch
    log_prob = log_prob_of(policy, batch)
    scores = th.stack([flat_grad(lp, actor_of(policy).values(), retain_graph=True) for lp in log_prob])
    ratio = (log_prob - batch.log_prob).exp().detach()
    assert (ratio - 1).abs().max() > 0.3
    weights = batch.advantages * ratio
    th.testing.assert_close(here.gradient, (weights[:, None] * scores).mean(dim=0), **EXACT)
    assert here.start == here.now == pytest.approx((weights.mean().item(), 0.0, 0.0), rel=1e-9)


@COMPILED
def test_the_critics_gradient_is_that_of_minus_its_error_and_its_product_that_with_its_jacobian(compiled, graphs):
    problem = around()
    here = problem.critic(compiled)
    policy, batch = copy.deepcopy(problem.policy), problem.batch
    parameters = [p for name, p in policy.named_parameters() if "value" in name]
    values = policy.predict_values(batch.observations).flatten()
    J = th.stack([flat_grad(v, parameters, retain_graph=True) for v in values])
    errors = (values - batch.returns).detach()
    th.testing.assert_close(here.gradient, -2 * (errors[:, None] * J).mean(dim=0), **EXACT)
    th.testing.assert_close(matrix(here), J.T @ J / len(J), **EXACT)
    assert here.start.gain == pytest.approx(-errors.square().mean().item(), rel=1e-9)
    step = some_step(here)
    here.move(step)
    after = here.measure()
    th.nn.utils.vector_to_parameters(th.nn.utils.parameters_to_vector(parameters) + step, parameters)
    moved = policy.predict_values(batch.observations).flatten().detach()
    change = (moved - values.detach()).square()
    expected = -(moved - batch.returns).square().mean().item(), change.mean().item(), change.max().item()
    assert after == here.now == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------------------------------- where a step leads


@kinds("Box")
def test_after_a_step_the_measure_is_torchs_kl_from_old_to_new_summed_and_the_surrogate(kind, compiled, graphs):
    problem = around(kind)
    old, batch = copy.deepcopy(problem.policy), problem.batch
    here = problem.actor(compiled)
    step = some_step(here, size=0.5)
    new = moved_by(old, step)
    here.move(step)
    assert here.now == here.start, "nothing is known of where it is now"
    measured = here.measure()
    kl, reverse = kl_of(old, new, batch.observations), kl_of(new, old, batch.observations)
    assert len(kl) == len(batch) and abs(kl.mean() / reverse.mean() - 1) > 0.01
    with th.no_grad():
        gain = (batch.advantages * (log_prob_of(new, batch) - batch.log_prob).exp()).mean()
    expected = gain.item(), kl.mean().item(), kl.max().item()
    assert measured == here.now == pytest.approx(expected, rel=1e-9)
    th.testing.assert_close(actor_vector(problem.policy), actor_vector(new), rtol=0, atol=0)


def test_the_divergence_of_a_tiny_step_of_a_policy_in_float32_is_not_lost_in_rounding_errors():
    """By a formula in float32 it would be wrong by 1e-7 or so."""
    update = Updated(make("npg", envs(), compile=False))
    old = in_double(update.old)
    here = Around(update.old, update.batch).actor(False)
    step = some_step(here, size=1e-4)
    here.move(step)
    expected = kl_of(old, in_double(update.old), update.observations).mean().item()
    F, step = hessian_of_kl(old, update.observations), step.double()
    assert expected == pytest.approx(0.5 * (step @ F @ step).item(), rel=0.01) and expected < 1e-6
    assert here.measure().divergence == pytest.approx(expected, rel=0.01)


def test_back_at_the_start_the_parameters_are_what_they_were_bit_for_bit():
    update = Updated(make("npg", envs(), compile=False))
    before = copy.deepcopy(update.old.state_dict())
    here = Around(update.old, update.batch).actor(False)
    for seed in range(5):
        here.move(some_step(here, size=10.0**seed, seed=seed))
        here.measure()
    here.move(None)
    assert here.now == here.start
    assert all(th.equal(p, before[name]) for name, p in update.old.state_dict().items())


def test_what_has_been_computed_leaves_no_history_in_the_policy():
    """Tensors with one can be neither copied nor saved."""
    problem = around()
    matrix(problem.actor(False))
    copy.deepcopy(problem.policy)
    assert all(p.grad is None for p in problem.policy.parameters())
