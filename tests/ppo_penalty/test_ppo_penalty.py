"""
PPOPenalty's penalty against dense Fisher matrices, closed forms and finite differences in float64; β against a script and
against divergences recomputed from copies of the policy.
"""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from problems import DEVICE, AnySpace, Scripted, vectorised
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch.distributions import kl_divergence

import sb3_pgx.ppo_penalty.ppo_penalty as module
from sb3_pgx import PPO, PPOPenalty
from sb3_pgx.common.controllers import KL_COEF_BOUNDS, adapted_kl_coef
from sb3_pgx.common.distributions import packed
from sb3_pgx.common.rollout import Batch
from sb3_pgx.common.update import Objective
from sb3_pgx.ops.objectives import kl_hinge

BOX = spaces.Box(-1, 1, (3,), np.float32)
EXACT = dict(rtol=1e-9, atol=1e-11)
QUICK = dict(n_steps=16, batch_size=16, n_epochs=2, device=DEVICE, seed=0)


class DoubleFeatures(FlattenExtractor):
    """Float64 from the first layer on."""

    def forward(self, observations):
        return super().forward(observations).double()


class DoublePolicy(ActorCriticPolicy):
    """Float64 actions, too: those of a Bernoulli distribution would bring its log-probabilities down to float32."""

    def evaluate_actions(self, obs, actions):
        return super().evaluate_actions(obs, actions.double() if actions.is_floating_point() else actions)


@pytest.fixture(autouse=True)
def on_the_tests_device():
    with th.device(DEVICE):
        yield


ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}


def small_model(action_space=ACTION_SPACES["Discrete"], **kwargs):
    """One hidden layer of two, in float64; nothing in the loss but surrogate and penalty."""
    policy_kwargs = dict(net_arch=dict(pi=[2], vf=[]), features_extractor_class=DoubleFeatures, ortho_init=False)
    settings = dict(QUICK, normalize_advantage=False, vf_coef=0.0, policy_kwargs=policy_kwargs, compile=False)
    model = PPOPenalty(DoublePolicy, vectorised(AnySpace(BOX, action_space)), **{**settings, **kwargs})
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


def loss(model, batch, **coefficients):
    """What the algorithm descends on, with the coefficients that are given in place of its own."""
    measured = model._steps.measure(model.policy, batch, model.coefficients()._replace(**coefficients))
    return measured["loss"]


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


def kl_of(old, new, observations):
    """KL(old‖new) in every state by torch's formulas, summed over the action's dimensions."""
    with th.no_grad():
        p, q = (policy.get_distribution(observations).distribution for policy in (old, new))
        if isinstance(p, list):
            return sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True))
        kl = kl_divergence(p, q)
        return kl if kl.dim() == 1 else kl.sum(dim=1)


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
    measured = model._steps.measure(model.policy, batch, c)
    assert measured["clip_fraction"].item() == (abs(ratio - 1) > 0.2)
    assert "clip_fraction" not in model._steps.measure(model.policy, batch, c._replace(clip_range=None))


# ------------------------------------------------------------------------------------------------------- β


LOW, HIGH = KL_COEF_BOUNDS
# Divergence of an iteration, and β after it: from 1, for a target of 1 and a tolerance of 2, so that both edges are exact.
SCRIPT = [
    (0.0, 0.5),
    (0.4999, 0.25),
    (0.5, 0.25),  # the lower edge itself is close enough
    (1.0, 0.25),
    (2.0, 0.25),  # and so is the upper one
    (2.0001, 0.5),
    (math.nan, 0.5),
    (1e9, 1.0),
    (math.inf, 2.0),
    (5.0, 4.0),
    (0.1, 2.0),
]


def test_beta_halves_or_doubles_outside_both_edges_and_stays_on_them():
    beta = 1.0
    for kl, expected in SCRIPT:
        beta = adapted_kl_coef(beta, kl, target_kl=1.0, tolerance=2.0, factor=2.0)
        assert beta == expected


def test_the_papers_edges_are_the_target_over_and_times_one_and_a_half():
    def after(kl):
        return adapted_kl_coef(1.0, kl, target_kl=0.03, tolerance=1.5, factor=2.0)

    assert [after(kl) for kl in (0.0199, 0.0201, 0.03, 0.0449, 0.0451)] == [0.5, 1.0, 1.0, 1.0, 2.0]


def test_beta_changes_by_its_factor_and_stays_within_its_bounds():
    assert adapted_kl_coef(1.0, 9.0, 1.0, 1.5, 3.0) == 3.0 and adapted_kl_coef(9.0, 0.0, 1.0, 1.5, 3.0) == 3.0
    for kl, bound in ((0.0, LOW), (9.0, HIGH)):
        beta = 1.0
        for _ in range(20):
            beta = adapted_kl_coef(beta, kl, 1.0, 1.5, 2.0)
        assert beta == bound
        assert adapted_kl_coef(beta, 9.0 - kl, 1.0, 1.5, 2.0) == bound * (2.0 if bound == LOW else 0.5)  # and back at once


class Updates(BaseCallback):
    """Keeps what each update measured, and the policy before and after it."""

    def __init__(self):
        super().__init__()
        self.metrics, self.before, self.after, self.observations, self.actions = [], [], [], [], []
        self.betas, self._seen = [], []

    def _on_step(self):
        self._seen.append((self.locals["obs_tensor"].clone(), th.as_tensor(self.locals["actions"])))
        return True

    def _on_rollout_end(self):
        observations, actions = zip(*self._seen, strict=True)
        self.observations.append(th.cat(observations))
        self.actions.append(th.cat(actions))
        self._seen.clear()
        self.before.append(copy.deepcopy(self.model.policy))

    def on_update_end(self, metrics):
        self.metrics.append(metrics)
        self.after.append(copy.deepcopy(self.model.policy))
        self.betas.append(self.model.kl_coef)


def test_a_scripted_divergence_moves_beta_once_an_iteration_and_the_one_used_is_logged(monkeypatch):
    script = iter([kl for kl, _ in SCRIPT])
    model = PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, target_kl=1.0, kl_tolerance=2.0)
    monkeypatch.setattr(model, "_moved", lambda rollout: {"kl": next(script)})
    callback = Updates()
    model.learn(16 * len(SCRIPT), callback=callback)
    expected = [beta for _, beta in SCRIPT]
    assert callback.betas == expected
    assert [metrics["kl_coef"] for metrics in callback.metrics] == [1.0, *expected[:-1]]


def moved_model(action_space=ACTION_SPACES["Box"], **kwargs):
    env = vectorised(*(AnySpace(BOX, action_space) for _ in range(3)))
    settings = dict(QUICK, n_steps=10, batch_size=8, n_epochs=3, learning_rate=0.02, compile=False)
    return PPOPenalty("MlpPolicy", env, **{**settings, **kwargs})


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_beta_adapts_once_an_iteration_to_the_divergence_over_the_whole_batch(kind, monkeypatch):
    calls = []

    def spy(kl_coef, kl, *rest):
        calls.append((kl_coef, kl, adapted_kl_coef(kl_coef, kl, *rest)))
        return calls[-1][-1]

    monkeypatch.setattr(module, "adapted_kl_coef", spy)
    model, callback = moved_model(ACTION_SPACES[kind]), Updates()
    model.learn(30 * 4, callback=callback)
    assert len(calls) == len(callback.metrics) == 4
    recomputed = [kl_of(*each) for each in zip(callback.before, callback.after, callback.observations, strict=True)]
    assert all(len(kl) == 30 and kl.mean() > 1e-3 for kl in recomputed)
    np.testing.assert_allclose([m["kl"] for m in callback.metrics], [kl.mean().item() for kl in recomputed], rtol=1e-4)
    np.testing.assert_allclose([m["kl_max"] for m in callback.metrics], [kl.max().item() for kl in recomputed], rtol=1e-4)
    np.testing.assert_allclose([kl for _, kl, _ in calls], [m["kl"] for m in callback.metrics], rtol=1e-6)
    assert [used for used, _, _ in calls] == [1.0, *callback.betas[:-1]]
    beta, expected = 1.0, []
    for kl in recomputed:
        beta = 2 * beta if kl.mean() > 0.015 else beta / 2 if kl.mean() < 0.01 / 1.5 else beta
        expected.append(beta)
    assert callback.betas == expected and model.kl_coef == expected[-1]


def test_the_logged_divergence_is_not_that_of_the_last_minibatches():
    """A policy that moves in every step: the last epoch's minibatches were measured before the last steps."""
    model, callback = moved_model(batch_size=15, n_epochs=1), Updates()
    model.learn(30, callback=callback)
    (metrics,) = callback.metrics
    assert metrics["kl"] > 1.5 * metrics["minibatch_kl"]


def test_ratio_statistics_are_those_of_all_rows_after_the_update():
    model, callback = moved_model(batch_size=15), Updates()
    model.learn(60, callback=callback)
    for i, metrics in enumerate(callback.metrics):
        with th.no_grad():
            old, new = (
                p.get_distribution(callback.observations[i]).log_prob(callback.actions[i])
                for p in (callback.before[i], callback.after[i])
            )
        ratio = (new - old).exp().double().cpu().numpy()
        assert len(ratio) == 30 and ratio.std() > 0.01
        result = [metrics[f"ratio_{name}"] for name in ("mean", "std", "min", "max")]
        np.testing.assert_allclose(result, [ratio.mean(), ratio.std(), ratio.min(), ratio.max()], rtol=1e-4)


def test_the_measurement_of_the_divergence_draws_no_random_numbers(monkeypatch):
    """Nor does it change the policy: with β held fixed, a training without it goes the same way."""
    results = []
    for measured in (True, False):
        model = moved_model(batch_size=15)
        if not measured:
            monkeypatch.setattr(model, "_moved", lambda rollout: {"kl": 0.01})
        monkeypatch.setattr(module, "adapted_kl_coef", lambda beta, *rest: beta)
        model.learn(90)
        results.append((th.nn.utils.parameters_to_vector(model.policy.parameters()), th.rand(1), np.random.rand()))
    assert th.equal(results[0][0], results[1][0]) and results[0][1:] == results[1][1:]


def test_beta_is_saved_and_training_goes_on_with_it(tmp_path):
    model = moved_model(batch_size=15, kl_coef=0.7).learn(90)
    assert model.kl_coef == 0.7 * 2 ** round(math.log2(model.kl_coef / 0.7)) != 0.7
    model.save(tmp_path / "model.zip")
    loaded = PPOPenalty.load(tmp_path / "model.zip", env=model.env, device=DEVICE)
    assert loaded.kl_coef == model.kl_coef
    callback = Updates()
    loaded.learn(30, callback=callback)
    assert callback.metrics[0]["kl_coef"] == model.kl_coef


def test_two_models_have_their_own_beta():
    first, second = moved_model(batch_size=15), moved_model(batch_size=15)
    first.learn(30)
    assert first.kl_coef != 1.0 and second.kl_coef == 1.0


# ------------------------------------------------------------------------------------------------------- when it ends


class Script:
    """Stands in for a model's objective, with given divergences of the minibatches."""

    def __init__(self, model, kls):
        self.model, self.original, self.kls = model, model._steps.objective, kls
        self.thetas, self.preparing = [], True
        model._steps.objective = Objective(self, self.original.distance, self.original.reads_distribution)

    def __call__(self, now, batch, c):
        measured = self.original.measure(now, batch, c)
        if self.preparing:  # before its first step the update asks once what is measured
            self.preparing = False
            return measured
        kl = self.kls[len(self.thetas)]
        self.thetas.append(th.nn.utils.parameters_to_vector(self.model.policy.parameters()).detach().clone())
        return {**measured, "minibatch_kl": th.tensor(kl)}


def scripted_update(kls, **kwargs):
    settings = dict(QUICK, n_steps=8, batch_size=4, n_epochs=3, compile=False)
    model = PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **settings, **kwargs)
    script = Script(model, kls)
    model.learn(8)
    return model, script


def test_the_update_ends_before_the_step_of_a_minibatch_beyond_four_targets():
    model, script = scripted_update([0.0, 0.039, 0.011, 0.041], early_stop_kl=4, target_kl=0.01)
    reached = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert len(script.thetas) == 4 and model.n_gradient_steps == 3 and model._n_updates == 2
    assert th.equal(reached, script.thetas[3]) and not th.equal(reached, script.thetas[2])


def test_four_targets_themselves_are_not_beyond():
    model, script = scripted_update([1.0] * 6, early_stop_kl=4, target_kl=0.25)
    assert len(script.thetas) == model.n_gradient_steps == 6


def test_beta_still_adapts_after_an_early_stop():
    model = moved_model(batch_size=15, early_stop_kl=0.1, target_kl=1e-4, n_epochs=5)
    model.learn(30)
    assert model.n_gradient_steps < 10 and model.kl_coef == 2.0


def test_the_target_alone_stops_nothing_unlike_ppos():
    kls = [100.0] * 6
    model, script = scripted_update(kls, target_kl=0.01)
    assert len(script.thetas) == model.n_gradient_steps == 6
    ppo = PPO("MlpPolicy", vectorised(Scripted([3])), **dict(QUICK, n_steps=8, batch_size=4, n_epochs=3), target_kl=1e-9)
    ppo.learn(8)
    assert ppo.n_gradient_steps < 6
    assert "unlike PPO's" in " ".join(PPOPenalty.__doc__.split()), "the difference is not documented"


# ------------------------------------------------------------------------------------------------------- arguments


def test_a_rollout_buffer_of_ones_own_is_refused_by_name():
    class OwnBuffer(RolloutBuffer):
        pass

    with pytest.raises(ValueError, match=r"PPOPenalty needs the action distributions.*rollout_buffer_class=OwnBuffer"):
        PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, rollout_buffer_class=OwnBuffer)
    PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, rollout_buffer_class=RolloutBuffer).learn(16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(kl_factor=1.0), "kl_factor=1.0 must be greater than 1"),
        (dict(kl_factor=0.5), "kl_factor=0.5"),
        (dict(kl_factor=math.nan), "kl_factor=nan"),
        (dict(kl_tolerance=1.0), "kl_tolerance=1.0 must be greater than 1"),
        (dict(kl_tolerance=math.nan), "kl_tolerance=nan"),
        (dict(kl_coef=0.0), "kl_coef=0.0 must be positive"),
        (dict(kl_coef=-1.0), "kl_coef=-1.0 must be positive"),
        (dict(kl_coef=math.nan), "kl_coef=nan"),
        (dict(hinge_coef=-1.0), "hinge_coef=-1.0 must be finite and not negative"),
        (dict(hinge_coef=float("inf")), "hinge_coef=inf must be finite"),
        (dict(kl_coef="lin_1"), "kl_coef='lin_1' must be positive and finite"),
        (dict(kl_coef=float("inf")), "kl_coef=inf must be positive and finite"),
        (dict(hinge_coef=math.nan), "hinge_coef=nan"),
        (dict(early_stop_kl=0.0), "early_stop_kl=0.0 must be positive"),
        (dict(early_stop_kl=-4.0), "early_stop_kl=-4.0 must be positive"),
        (dict(target_kl=None), "target_kl=None.*PPO is the algorithm without one"),
        (dict(target_kl=0.0), "target_kl=0.0 must be positive"),
        (dict(target_kl=-0.01), "target_kl=-0.01 must be positive"),
        (dict(clip_range=-0.1), "clip_range is -0.1"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, **arguments)
