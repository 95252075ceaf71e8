"""The critic's step against least squares, its trust region, and what it must leave as it is: the action distribution."""

import copy

import numpy as np
import pytest
import sb3_contrib
import torch as th
from selection import mostly_slow
from support.capabilities import BOX, DICT, IMAGE, QUICK, OwnExtractor
from support.dense_natural_gradient import Updated, Updates, double_model, is_actors
from support.eager_and_compiled import envs
from support.models import Coarse, Watched
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import NPG, TRPO
from sb3_pgx.core.distributions import packed
from sb3_pgx.ops.natural_gradient import LineSearch

BOTH = pytest.mark.parametrize("name", ["npg", "trpo"])
CRITICS = pytest.mark.parametrize("critic", ["sgd", "trust_region"])
LINEAR = dict(critic="trust_region", policy_kwargs=dict(net_arch=[]), n_steps=32, cg_max_steps=50, cg_tolerance=1e-12)


class Regression:
    """What an update has done to the values of its rows, and what least squares would have."""

    def __init__(self, update):
        batch = update.batch
        with th.no_grad():
            self.old, self.new = (p.predict_values(batch.observations).flatten() for p in (update.old, update.new))
        self.returns = batch.returns.to(self.old)
        X = th.cat([batch.observations, th.ones_like(batch.observations[:, :1])], dim=1).to(self.old)
        self.best = X @ th.linalg.lstsq(X, self.returns[:, None]).solution.flatten()
        self.variance = (self.old - self.returns).square().mean()

    @property
    def constraint(self):
        return ((self.new - self.old).square().mean() / (2 * self.variance)).item()

    @property
    def error(self):
        return (self.new - self.returns).square().mean()


# ------------------------------------------------------------------------------------------------------- linear


@BOTH
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_a_linear_critics_step_ends_where_its_constraint_does(name, epsilon):
    """
    The least error with mean (ΔV)² / (2σ²) = ε: ΔV minimises a sum of squares plus a multiple of its own, by which the
    solution of least squares is shortened, and nothing else.
    """
    update = Updated(double_model(name, **LINEAR, cg_damping=0.0, critic_epsilon=epsilon))
    r = Regression(update)
    assert r.constraint == pytest.approx(epsilon, rel=1e-8)
    part = (2 * epsilon * r.variance / (r.best - r.old).square().mean()).sqrt()
    assert part < 0.9
    th.testing.assert_close(r.new - r.old, part * (r.best - r.old), rtol=1e-7, atol=1e-9)
    expected = {
        "critic_constraint": epsilon,
        "value_loss": r.variance.item(),
        "explained_variance_after": 1 - ((r.returns - r.new).var() / r.returns.var()).item(),
        "critic_step_length": part.item() / 2,  # of H⁻¹ times minus the gradient of the mean square, not of its half
    }
    assert {key: update.metrics[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@BOTH
def test_a_linear_critic_whose_constraint_is_wide_enough_ends_at_least_squares_and_no_further(name):
    r = Regression(Updated(double_model(name, **LINEAR, cg_damping=0.0, critic_epsilon=100.0)))
    th.testing.assert_close(r.new, r.best, rtol=1e-7, atol=1e-9)
    assert (r.new - r.old).abs().max() > 0.1


def test_damping_leaves_a_linear_critic_within_its_constraint_and_short_of_least_squares():
    for epsilon in (1e-3, 100.0):
        r = Regression(Updated(double_model("npg", **LINEAR, cg_damping=0.1, critic_epsilon=epsilon)))
        assert r.constraint < epsilon and (r.best - r.returns).square().mean() < r.error < r.variance


def test_damping_is_part_of_a_linear_critics_solution_and_of_its_length():
    """√(2εσ² / sᵀ(H + λI)s) s with (H + λI) s = −g, H = XᵀX / N, and g the gradient of the mean squared error."""
    epsilon, damping = 1e-3, 0.1
    update = Updated(double_model("npg", **LINEAR, cg_damping=damping, critic_epsilon=epsilon))
    r, x = Regression(update), update.batch.observations
    X = th.cat([x, th.ones_like(x[:, :1])], dim=1).to(r.old)
    damped = X.T @ X / len(X) + damping * th.eye(4).to(X)
    s = th.linalg.solve(damped, 2 * X.T @ (r.returns - r.old) / len(X))
    length = (2 * epsilon * r.variance / (s @ damped @ s)).sqrt()
    assert length < 0.5
    th.testing.assert_close(r.new - r.old, length * (X @ s), rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------------------------------- not linear


@pytest.mark.parametrize("epsilon, name, compile", [(0.01, "npg", False), (0.5, "trpo", False), (0.1, "npg", True)])
def test_no_update_of_a_critic_with_layers_breaks_its_constraint_or_raises_its_error(epsilon, compile, name, graphs):
    callback = Updates()
    model = double_model(
        name, critic="trust_region", critic_epsilon=epsilon, policy_kwargs=dict(net_arch=dict(pi=[2], vf=[8, 8])),
        cg_damping=1e-3, n_steps=16, compile=compile,
    )  # fmt: skip
    model.learn(32 * 6, callback=callback)
    errors = []
    for old, new, metrics, rollout in zip(callback.before, callback.after, callback.metrics, callback.rollouts, strict=True):
        batch = rollout.rows()
        with th.no_grad():
            before, after = (policy.predict_values(batch.observations).flatten() for policy in (old, new))
        variance = (before - batch.returns).square().mean()
        constraint = ((after - before).square().mean() / (2 * variance)).item()
        assert 0 < constraint <= epsilon * (1 + 1e-3)
        errors.append(((after - batch.returns).square().mean() / variance).item())
        assert metrics["critic_constraint"] == pytest.approx(constraint, rel=1e-5)
        assert metrics["value_loss"] == pytest.approx(variance.item(), rel=1e-5)
    assert len(errors) == 6 and max(errors) < 1


@pytest.mark.parametrize("failure", ["farther", "worse"])
def test_where_no_length_will_do_the_critic_stays_bit_for_bit_and_the_policy_has_learned(failure):
    tried, model = [], double_model("npg", critic="trust_region", policy_kwargs=dict(net_arch=[]))
    model.policy.value_net = Watched(model.policy.value_net, tried.append)
    if failure == "farther":
        model.critic_tolerance = -1.0
    else:
        model.policy.value_net = th.nn.Sequential(model.policy.value_net, Coarse())
    update = Updated(model)
    new = update.new.state_dict()
    changed = {key for key, p in update.old.state_dict().items() if not th.equal(p, new[key])}
    assert changed and all(map(is_actors, changed))
    lengths = [length for length in tried if length > 0]
    assert len(lengths) == 15 and update.metrics["critic_step_length"] == update.metrics["critic_constraint"] == 0.0
    np.testing.assert_allclose(lengths, lengths[0] * 0.8 ** np.arange(15), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 14])
def test_the_critic_takes_the_longest_of_the_lengths_within_its_limit(k):
    """A linear critic, whose divergence is quadratic in the length: of 0.8ᵏ times the length it is 0.64ᵏ ε."""
    model = double_model("npg", **LINEAR, cg_damping=0.0, critic_epsilon=1e-3)
    model.critic_tolerance = 0.64**k * (1 + 1e-3) - 1
    assert Updated(model).metrics["critic_constraint"] == pytest.approx(0.64**k * 1e-3, rel=1e-6)


class Nothing(AnySpace):
    """Rewards of 0."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


@CRITICS
@BOTH
def test_a_critic_without_error_stays_bit_for_bit_as_does_the_policy_without_advantages(name, critic):
    env = vectorised(Nothing(copy.deepcopy(BOX), copy.deepcopy(BOX)))
    model = {"npg": NPG, "trpo": TRPO}[name]("MlpPolicy", env, n_steps=8, batch_size=8, critic=critic, seed=0, device=DEVICE)
    th.nn.init.zeros_(model.policy.value_net.weight)
    before, callback = copy.deepcopy(model.policy.state_dict()), Updates()
    model.learn(16, callback=callback)
    assert all(th.equal(p, before[key]) for key, p in model.policy.state_dict().items())
    for metrics in callback.metrics:
        assert metrics["value_loss"] == metrics["critic_constraint"] == 0.0


# ------------------------------------------------------------------------------------------------------- by minibatches


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("n_critic_updates, batch_size", [(1, 32), (3, 32), (2, 12), (10, 8)])
@BOTH
def test_the_minibatch_critic_is_that_of_sb3_contribs_trpo(name, n_critic_updates, batch_size):
    """Whatever the policy's step: the critic has layers of its own here."""
    settings = dict(n_steps=16, batch_size=batch_size, n_critic_updates=n_critic_updates, learning_rate=0.02, seed=0)
    critics = []
    for model_class, own in ((sb3_contrib.TRPO, {}), ({"npg": NPG, "trpo": TRPO}[name], dict(compile=False))):
        model = model_class("MlpPolicy", envs(), device=DEVICE, policy_kwargs=dict(net_arch=[8]), **settings, **own)
        before = critic_of(model.policy)
        critics.append(critic_of(model.learn(32).policy))
    assert (critics[0] - before).abs().max() > 0.01
    th.testing.assert_close(critics[1], critics[0], rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- the distribution


class Stays(NPG):
    """Its policy takes no step: whatever changes, the critic has changed."""

    def search(self, here, step):
        return LineSearch(0.0, 0.0, 0.0, 1)


def optimizer(kind, **kwargs):
    return dict(policy_kwargs=dict(net_arch=[8], optimizer_class=kind, optimizer_kwargs=kwargs))


SHARED = dict(net_arch=[8], features_extractor_class=OwnExtractor)
CASES = {
    "separate layers": lambda: ("MlpPolicy", envs(), {}),
    "a shared extractor": lambda: ("MlpPolicy", envs(), dict(policy_kwargs=SHARED)),
    "two extractors": lambda: ("MlpPolicy", envs(), dict(policy_kwargs=dict(SHARED, share_features_extractor=False))),
    "images": lambda: ("CnnPolicy", envs(IMAGE), {}),
    "dictionaries": lambda: ("MultiInputPolicy", envs(DICT), dict(policy_kwargs=dict(net_arch=[8]))),
    "gSDE": lambda: ("MlpPolicy", envs(), dict(use_sde=True, policy_kwargs=SHARED)),
    "weight decay": lambda: ("MlpPolicy", envs(), optimizer(th.optim.AdamW, weight_decay=0.5)),
    "momentum": lambda: ("MlpPolicy", envs(), optimizer(th.optim.SGD, momentum=0.9, weight_decay=0.5)),
    "an optimizer of another kind": lambda: ("MlpPolicy", envs(), optimizer(th.optim.Adagrad, weight_decay=0.5)),
}
CELLS = [(case, False, critic) for case in CASES for critic in ("sgd", "trust_region")]
CELLS += [("a shared extractor", True, "trust_region"), ("two extractors", True, "sgd"), ("weight decay", True, "sgd")]


def each_case_with_one_critic(case, compile, critic):
    return compile or ("sgd", "trust_region").index(critic) == [*CASES].index(case) % 2


@pytest.mark.parametrize("case, compile, critic", mostly_slow(CELLS, each_case_with_one_critic))
def test_the_critics_steps_leave_the_action_distribution_as_it_is_bit_for_bit(case, compile, critic, graphs):
    policy, env, kwargs = CASES[case]()
    model = Stays(policy, env, critic=critic, compile=compile, seed=0, device=DEVICE, **QUICK["npg"], **kwargs)
    callback = Updates()
    model.learn(24, callback=callback)
    assert len(callback.metrics) == 2
    for old, new, rollout in zip(callback.before, callback.after, callback.rollouts, strict=True):
        observations = rollout.rows().observations
        with th.no_grad():
            before, after = (packed(p.get_distribution(observations)) for p in (old, new))
            values = [p.predict_values(observations) for p in (old, new)]
        assert th.equal(before, after) and not th.equal(*values)


def test_with_extractors_of_its_own_all_of_the_critic_learns():
    policy, env, kwargs = CASES["two extractors"]()
    model = Stays(policy, env, critic="trust_region", seed=0, device=DEVICE, **QUICK["npg"], **kwargs)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(12)
    changed = {key for key, p in model.policy.state_dict().items() if not th.equal(p, before[key])}
    assert changed == {key for key in before if "vf_" in key or "value" in key}


@CRITICS
@BOTH
def test_first_the_policy_steps_on_advantages_of_the_old_values_and_then_the_critic(name, critic):
    kinds, seen = {"npg": NPG, "trpo": TRPO}, []

    class Watched(kinds[name]):
        def search(self, here, step):
            seen.append(critic_of(self.policy))
            return super().search(here, step)

    model = Watched("MlpPolicy", envs(), critic=critic, seed=0, device=DEVICE, **QUICK[name])
    callback = Updates()
    model.learn(36, callback=callback)
    for values, old, new, rollout in zip(seen, callback.before, callback.after, callback.rollouts, strict=True):
        assert th.equal(values, critic_of(old)) and not th.equal(values, critic_of(new))
        with th.no_grad():
            expected = old.predict_values(rollout.rows().observations).flatten()
        th.testing.assert_close((rollout.returns - rollout.advantages).flatten(), expected, rtol=1e-4, atol=1e-5)


def critic_of(policy):
    return th.cat([p.detach().flatten().clone() for key, p in policy.named_parameters() if not is_actors(key)])
