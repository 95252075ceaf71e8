"""NPG's step against dense linear algebra, in other coordinates, and from a sample of the states; and what it is made of."""

import copy
import math

import numpy as np
import pytest
import torch as th
from selection import each_value
from stable_baselines3.common.buffers import RolloutBuffer
from support.capabilities import OwnExtractor
from support.dense_natural_gradient import KINDS, DoublePolicy, Updated, Updates, actor_of, double_model
from support.eager_and_compiled import envs, make
from support.models import kl_of
from support.small_environments import DEVICE

BOTH = pytest.mark.parametrize("name", ["npg", "trpo"])
TIGHT = dict(cg_max_steps=200, cg_tolerance=1e-10)


def solved(matrix, damping, g):
    """(F + λI)⁻¹g, of the least norm where there are directions without curvature."""
    return th.linalg.pinv(matrix + damping * th.eye(len(g)).to(g), hermitian=True, rtol=1e-10) @ g


# ------------------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("kind, damping", each_value(KINDS, [0.0, 0.05]))
def test_to_a_divergence_the_quadratic_model_without_the_damping_is_exactly_there(kind, damping):
    """½ ΔᵀFΔ = δ along (F + λI)⁻¹g."""
    update = Updated(double_model("npg", **KINDS[kind], **TIGHT, n_steps=32, cg_damping=damping, target_kl=1e-3))
    F, g = update.fisher(), update.gradient()
    s = solved(F, damping, g)
    assert (0.5 * update.step @ F @ update.step).item() == pytest.approx(1e-3, rel=1e-7)
    th.testing.assert_close(update.step, math.sqrt(2e-3 / (s @ F @ s)) * s, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind, damping", each_value(KINDS, [0.0, 0.05]))
def test_of_a_fixed_size_it_is_that_multiple_of_the_solution(kind, damping):
    settings = dict(step_rule="fixed", step_size=0.02, cg_damping=damping, n_steps=32)
    update = Updated(double_model("npg", **KINDS[kind], **TIGHT, **settings))
    expected = 0.02 * solved(update.fisher(), damping, update.gradient())
    th.testing.assert_close(update.step, expected, rtol=1e-7, atol=1e-9)
    assert update.metrics["step_length"] == 0.02


@pytest.mark.parametrize("step_rule", ["kl", "fixed"])
def test_metrics_are_those_of_the_old_and_the_new_policy_over_all_rows(step_rule):
    update = Updated(double_model("npg", step_rule=step_rule, target_kl=0.1))
    kl, before, after = update.kl(update.new), update.surrogate(update.old), update.surrogate(update.new)
    F, s = update.fisher(), update.step / update.metrics["step_length"]
    expected = {
        "kl_divergence_loss": kl.mean().item(),
        "kl_max": kl.max().item(),
        "policy_objective": after,
        "surrogate_improvement": after - before,
        "predicted_improvement": (update.gradient() @ update.step).item(),
        "curvature": (s @ F @ s).item(),
    }
    assert kl.mean() > 1e-3
    assert {name: update.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert not {"is_line_search_success", "line_search_steps"} & update.metrics.keys()


class MixedPolicy(DoublePolicy):
    """A linear Gaussian policy in other coordinates: its parameters, log σ among them, are θ = M ψ, and ψ is learned."""

    def __init__(self, *args, mixing=None, **kwargs):
        self.mixing = mixing
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        theta = th.cat([p.detach().flatten() for p in actor_of(self).values()])
        del self.action_net, self.log_std
        self.psi = th.nn.Parameter(th.linalg.solve(self.mixing.to(theta), theta))

    def _get_action_dist_from_latent(self, latent_pi):
        log_std, weight, bias = (self.mixing.to(self.psi) @ self.psi).split([2, 6, 2])
        return self.action_dist.proba_distribution(latent_pi @ weight.view(2, 3).T + bias, log_std)


@pytest.mark.parametrize("damping, same", [(0.0, True), (0.1, False)])
@pytest.mark.parametrize("settings", [dict(step_rule="fixed", step_size=0.3), dict(target_kl=0.05)], ids=str)
def test_in_other_coordinates_the_step_leads_to_the_same_policy_unless_it_is_damped(settings, damping, same):
    generator = th.Generator().manual_seed(5)
    mixings = th.eye(10, dtype=th.float64), th.eye(10) + 0.4 * th.randn(10, 10, generator=generator, dtype=th.float64)
    updates = []
    for mixing in mixings:
        model = double_model(
            "npg", policy=MixedPolicy, policy_kwargs=dict(mixing=mixing), cg_damping=damping, **TIGHT, **settings
        )
        updates.append(Updated(model))
    one, other = updates
    assert kl_of(one.old, other.old, one.observations).max() < 1e-12, "they start as the same policy"
    assert kl_of(one.old, one.new, one.observations).mean() > 0.005
    difference = kl_of(one.new, other.new, one.observations).max().item()
    assert difference < 1e-12 if same else difference > 1e-5


# ------------------------------------------------------------------------------------------------------- a sample of states


def rows_of(sample, observations):
    """Where the rows of a sample are among the observations."""
    (places,) = zip(*((observations == row).all(dim=1).nonzero().flatten().tolist() for row in sample), strict=True)
    return list(places)


def samples_of(model):
    """The observations from which the curvature of each of the policy's steps to come is computed."""
    samples, search = [], model.search
    model.search = lambda here, step: samples.append(*here.sample) or search(here, step)
    return samples


@pytest.mark.parametrize("factor, size", [(2, 8), (3, 6), (5, 4), (16, 1), (100, 1)])
def test_products_are_those_of_one_state_in_so_many_and_all_else_is_of_all_rows(factor, size):
    model = double_model("trpo", sub_sampling_factor=factor, cg_damping=0.05, target_kl=0.02, **TIGHT)
    samples = samples_of(model)
    update = Updated(model)
    (sample,) = samples
    assert len(set(rows_of(sample, update.observations))) == len(sample) == size
    F, g = update.fisher(sample), update.gradient()
    damped = F + 0.05 * th.eye(len(g)).to(g)
    s = th.linalg.solve(damped, g)
    expected = 0.8 ** (update.metrics["line_search_steps"] - 1) * math.sqrt(0.04 / (s @ damped @ s)) * s
    th.testing.assert_close(update.step, expected, rtol=1e-7, atol=1e-9)
    kl = update.kl(update.new)
    assert len(kl) == 16 and update.metrics["kl_divergence_loss"] == pytest.approx(kl.mean().item(), rel=1e-6)
    assert kl.mean() <= 0.02 and update.metrics["kl_max"] == pytest.approx(kl.max().item(), rel=1e-6)
    assert update.metrics["policy_objective"] == pytest.approx(update.surrogate(update.new), rel=1e-6)


@BOTH
def test_the_sample_is_drawn_anew_in_every_update_and_for_another_seed(name):
    drawn = []
    for seed in (0, 1, 0):
        model, callback = double_model(name, sub_sampling_factor=2, seed=seed), Updates()
        samples = samples_of(model)
        model.learn(48, callback=callback)
        observations = [rollout.rows().observations for rollout in callback.rollouts]
        drawn.append([rows_of(*pair) for pair in zip(samples, observations, strict=True)])
    first, second, again = drawn
    assert len(first) == 3 and len({tuple(sorted(sample)) for sample in first + second}) == 6 and again == first


# ------------------------------------------------------------------------------------------------------- the rows


SQUARES = np.arange(16, dtype=np.float32).reshape(8, 2) ** 2


class OwnAdvantages(RolloutBuffer):
    """A user's class whose advantages are not those of GAE."""

    def compute_returns_and_advantage(self, last_values, dones):
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = SQUARES.copy()


@BOTH
def test_what_a_rollout_buffer_of_ones_own_yields_is_what_the_step_is_made_of(name):
    settings = dict(n_steps=8, batch_size=16, n_critic_updates=1, compile=False)
    model = make(name, envs(), rollout_buffer_class=OwnAdvantages, **settings)
    update = Updated(model, advantages=th.as_tensor(SQUARES, device=DEVICE))
    predicted = (update.gradient() @ update.step).item()
    assert update.metrics["predicted_improvement"] == pytest.approx(predicted, rel=1e-3)
    assert update.metrics["policy_objective"] == pytest.approx(update.surrogate(update.new), rel=1e-3)


class Noisy(OwnExtractor):
    """Differs between training and acting, and has statistics that change while it is trained."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer = th.nn.Sequential(self.layer, th.nn.BatchNorm1d(self.features_dim), th.nn.Dropout(0.5))


@pytest.mark.parametrize("critic", ["sgd", "trust_region"])
@BOTH
def test_dropout_and_batchnorm_do_in_the_update_what_they_did_when_the_policy_acted(name, critic):
    callback = Updates()
    policy_kwargs = dict(features_extractor_class=Noisy)
    make(name, envs(), critic=critic, n_steps=8, policy_kwargs=policy_kwargs, compile=False).learn(32, callback=callback)
    for old, new, metrics, rollout in zip(callback.before, callback.after, callback.metrics, callback.rollouts, strict=True):
        assert all(th.equal(b, new.get_buffer(name)) for name, b in old.named_buffers())
        kl = kl_of(old, new, rollout.rows().observations).mean().item()
        assert metrics["kl_divergence_loss"] == pytest.approx(kl, rel=1e-3) and kl > 1e-4
        start = metrics["policy_objective"] - metrics["surrogate_improvement"]
        assert start == pytest.approx(0.0, abs=1e-5), "all ratios are 1, and the mean of the advantages is 0"


@BOTH
def test_frozen_layers_stay_and_the_step_is_that_of_the_others(name):
    model = double_model(name, cg_damping=0.05, policy_kwargs=dict(net_arch=[2, 2]), target_kl=1e-3, **TIGHT)
    model.policy.mlp_extractor.policy_net[0].requires_grad_(False)
    model.policy.mlp_extractor.value_net[0].requires_grad_(False)
    update = Updated(model)
    for key in ("policy_net.0.weight", "policy_net.0.bias", "value_net.0.weight", "value_net.0.bias"):
        p, q = (policy.get_parameter(f"mlp_extractor.{key}") for policy in (update.old, update.new))
        assert th.equal(p, q), key
    F, g = update.fisher(), update.gradient()
    s = solved(F, 0.05, g)
    assert len(g) == 14 and update.step.norm() > 0
    th.testing.assert_close(update.step / update.step.norm(), s / s.norm(), rtol=1e-7, atol=1e-9)


@BOTH
def test_with_the_whole_actor_frozen_the_critic_learns_alone(name):
    model = double_model(name)
    for p in actor_of(model.policy).values():
        p.requires_grad_(False)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(16)
    changed = {key for key, p in model.policy.state_dict().items() if not th.equal(p, before[key])}
    assert changed and all("value" in key for key in changed)
