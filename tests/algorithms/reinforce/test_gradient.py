"""
REINFORCE's gradient against the exact one: every batch of episodes of a small problem is enumerated and sent through the
algorithm's own evaluation, estimation and loss, in float64.
"""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from support.small_environments import DEVICE, DoubleFeatures

from sb3_pgx import REINFORCE, REINFORCEBaseline
from sb3_pgx.core.policies import ActorPolicy
from sb3_pgx.core.rollout import CollectedRollout
from sb3_pgx.stages.evaluate import MAX_ROWS, evaluate_rollout

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

GAMMA = 0.5


class Corridor(gym.Env):
    """
    Action 0 leaves, action 1 walks on and changes the state; the third step is the last. Four trajectories, of lengths 1,
    2, 3 and 3, the last one cut off by the time limit.
    """

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)


# (states, actions, rewards, truncated)
TRAJECTORIES = [
    ([0], [0], [4.0], False),
    ([0, 1], [1, 0], [1.0, 8.0], False),
    ([0, 1, 0], [1, 1, 0], [1.0, -2.0, 4.0], False),
    ([0, 1, 0], [1, 1, 1], [1.0, -2.0, 16.0], True),
]


class DoublePolicy(ActorPolicy):
    """Tabular (one-hot states, no hidden layer), in float64."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "net_arch": [], "ortho_init": False})
        self.double()

    def _get_action_dist_from_latent(self, latent_pi):
        return super()._get_action_dist_from_latent(latent_pi.double())


def make_model(model_class=REINFORCE, policy=DoublePolicy, **kwargs):
    model = model_class(policy, Corridor(), gamma=GAMMA, seed=0, device=DEVICE, **kwargs)
    with th.no_grad():
        model.policy.action_net.weight.copy_(th.tensor([[0.2, -0.4], [0.7, 0.1]]))
    return model


def rollout_of(trajectories):
    """One environment a trajectory; shorter ones are followed by rows that do not count, filled with nonsense."""
    T, N = max(len(t[0]) for t in trajectories), len(trajectories)
    observations, actions = th.ones(T, N, 1, dtype=th.long), th.ones(T, N, 1, dtype=th.long)
    rewards, valid = th.full((T, N), 1000.0, dtype=th.float64), th.zeros(T, N, dtype=th.bool)
    terminated, truncated, starts = (th.zeros(T, N, dtype=th.bool) for _ in range(3))
    for n, (states, chosen, received, cut) in enumerate(trajectories):
        k = len(states)
        observations[:k, n, 0], actions[:k, n, 0] = th.tensor(states), th.tensor(chosen)
        rewards[:k, n], valid[:k, n] = th.tensor(received), True
        (truncated if cut else terminated)[k - 1, n] = True
        starts[0, n] = True
        starts[k:, n] = True
    final = th.ones(int(truncated.sum()), 1, dtype=th.long) if truncated.any() else None
    last = th.zeros(N, 1, dtype=th.long)
    return CollectedRollout(observations, actions, rewards, terminated, truncated, valid, starts, final, last)


def gradient_of(model):
    return th.cat([p.grad.flatten() for p in (model.policy.action_net.weight, model.policy.action_net.bias)])


def estimate(model, trajectories):
    """Probability of a batch, and the algorithm's estimate of ∇J from it."""
    rollout = evaluate_rollout(model.policy, rollout_of(trajectories))
    probability = rollout.log_prob[rollout.valid].sum().exp()
    model.policy.optimizer.zero_grad()
    model.accumulate_gradient(model.estimate(rollout))
    return probability, -gradient_of(model)


def expected_estimate(model, episodes):
    total, mass = 0.0, 0.0
    for batch in itertools.product(TRAJECTORIES, repeat=episodes):
        probability, gradient = estimate(model, batch)
        total, mass = total + probability * gradient, mass + probability
    assert mass.item() == pytest.approx(1.0, abs=1e-12)
    return total


def log_probs(model):
    """log π(a|s) ``[states, actions]``, with a graph to the parameters: a softmax table, not the policy's own code."""
    net = model.policy.action_net
    return (net.weight.T + net.bias).log_softmax(dim=1)


def exact_gradient(model):
    """Autograd of J(θ) = Σ_τ p(τ; θ) Σ_t γ^t r_t."""
    table = log_probs(model)
    J = sum(
        table[states, actions].sum().exp() * sum(GAMMA**t * r for t, r in enumerate(rewards))
        for states, actions, rewards, _ in TRAJECTORIES
    )
    return th.cat([g.flatten() for g in th.autograd.grad(J, list(model.policy.action_net.parameters()))])


def undiscounted_state_weighting(model):
    """Σ_τ p(τ) Σ_t ∇log π(a_t|s_t) G_t."""
    table = log_probs(model)
    total = 0.0
    for states, actions, rewards, _ in TRAJECTORIES:
        returns = [sum(GAMMA ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
        surrogate = (table[states, actions] * th.tensor(returns)).sum()
        total = total + table[states, actions].sum().exp().detach() * surrogate
    return th.cat([g.flatten() for g in th.autograd.grad(total, list(model.policy.action_net.parameters()))])


def assert_equal(result, expected, rel=1e-10):
    assert (result - expected).norm() <= rel * expected.norm()


@pytest.mark.parametrize(
    "baseline, episodes",
    [(None, 1), (None, 2), ("loo", 2), ("loo", 3), ("optimal", 2), ("optimal", 3), ("optimal_per_parameter", 2)],
)
def test_the_expected_gradient_is_exact_with_discounted_state_weighting(baseline, episodes):
    model = make_model(baseline=baseline, discount_state_weighting=True)
    assert_equal(expected_estimate(model, episodes), exact_gradient(model))


class DoubleActorCritic(ActorCriticPolicy):
    """:class:`DoublePolicy` with a critic."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "net_arch": [], "ortho_init": False, "features_extractor_class": DoubleFeatures})
        self.double()


@pytest.mark.parametrize("discounted", [True, False])
def test_a_learned_baseline_leaves_the_expected_gradient_exact(discounted):
    """With weights of the discounted states that of J, and without the usual sum, whatever V is."""
    model = make_model(REINFORCEBaseline, DoubleActorCritic, discount_state_weighting=discounted, bootstrap_truncated=False)
    result = expected_estimate(model, 2)
    assert_equal(result, exact_gradient(model) if discounted else undiscounted_state_weighting(model))
    rollout = evaluate_rollout(model.policy, rollout_of(TRAJECTORIES))
    assert rollout.values.abs().max() > 0.1, "there is something to subtract"


@pytest.mark.parametrize("baseline", [None, "loo"])
def test_without_state_weighting_it_is_the_usual_sum_and_not_the_gradient(baseline):
    model = make_model(baseline=baseline)
    result = expected_estimate(model, 2)
    assert_equal(result, undiscounted_state_weighting(model))
    assert (result - exact_gradient(model)).norm() > 0.05 * result.norm()


def test_the_mean_baseline_shortens_each_step_by_the_number_of_episodes_alive():
    """E[ĝ] = E[(1/E) Σ_i Σ_t (1 − 1/n_t) γ^t ∇log π G_it], from the definition, for episodes of different lengths."""
    model = make_model(baseline="mean", discount_state_weighting=True)
    table = log_probs(model)
    expected = 0.0
    for batch in itertools.product(TRAJECTORIES, repeat=2):
        probability = sum(table[s, a].sum() for s, a, _, _ in batch).exp().detach()
        for states, actions, rewards, _ in batch:
            for t in range(len(rewards)):
                alive = sum(len(other[2]) > t for other in batch)
                G = sum(GAMMA ** (k - t) * rewards[k] for k in range(t, len(rewards)))
                weight = probability * (1 - 1 / alive) * GAMMA**t / 2
                expected = expected + weight * G * table[states[t], actions[t]]
    gradient = th.autograd.grad(expected, list(model.policy.action_net.parameters()))
    assert_equal(expected_estimate(model, 2), th.cat([g.flatten() for g in gradient]))


def test_the_loss_is_a_mean_over_episodes_and_not_over_steps():
    """One long and one short episode: each weighs the same, however many steps it has."""
    model = make_model()
    long, short = TRAJECTORIES[3], TRAJECTORIES[0]
    _, both = estimate(model, [long, short])
    _, first = estimate(model, [long])
    _, second = estimate(model, [short])
    assert_equal(both, (first + second) / 2)
    per_step = (3 * first + 1 * second) / 4
    assert (both - per_step).norm() > 0.05 * both.norm()


def test_normalised_returns_are_standardised_over_all_steps_of_the_batch():
    model = make_model(normalize_returns=True)
    rollout = model.estimate(evaluate_rollout(model.policy, rollout_of([TRAJECTORIES[1], TRAJECTORIES[2]])))
    raw = np.array([5.0, 8.0, 1.0, 0.0, 4.0])  # environment by environment
    expected = (raw - raw.mean()) / raw.std()
    assert rollout.returns.T[rollout.valid.T].tolist() == raw.tolist()
    np.testing.assert_allclose(rollout.advantages.T[rollout.valid.T].cpu().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["loo", "optimal_per_parameter"])
@pytest.mark.parametrize("discounted", [False, True])
def test_the_entropy_bonus_adds_its_own_gradient_summed_over_the_steps(discounted, baseline):
    model = make_model(ent_coef=0.25, discount_state_weighting=discounted, baseline=baseline)
    _, with_bonus = estimate(model, [TRAJECTORIES[1], TRAJECTORIES[0]])
    model.ent_coef = 0.0
    _, without = estimate(model, [TRAJECTORIES[1], TRAJECTORIES[0]])
    table = log_probs(model)
    entropy = -(table.exp() * table).sum(dim=1)
    weight = GAMMA if discounted else 1.0
    visited = 2 * entropy[0] + weight * entropy[1]  # state 0 at the start of both, state 1 one step later
    gradient = th.autograd.grad(0.25 * visited / 2, list(model.policy.action_net.parameters()))
    assert_equal(with_bonus - without, th.cat([g.flatten() for g in gradient]))


def defined_gradient(model, trajectories, per_parameter, normalized=False):
    """
    (1/E) Σ_i Σ_t s_it (G_it − b_it) with b_it = Σ_j w_jt G_jt / Σ_j w_jt over the other episodes alive at t, w = ‖s‖² or
    s∘s, and the mean return of all steps of the others where none is alive: loops, and one backward pass a score.
    """
    table = log_probs(model)
    parameters = list(model.policy.action_net.parameters())

    def score(s, a):
        return th.cat([g.flatten() for g in th.autograd.grad(table[s, a], parameters, retain_graph=True)])

    scores = [[score(s, a) for s, a in zip(states, actions, strict=True)] for states, actions, _, _ in trajectories]
    returns = [[sum(GAMMA ** (k - t) * r[k] for k in range(t, len(r))) for t in range(len(r))] for _, _, r, _ in trajectories]
    if normalized:
        every = np.concatenate(returns)
        mean, std = every.mean(), every.std()
        returns = [[(G - mean) / std for G in own] for own in returns]
    total = 0.0
    for i, own in enumerate(returns):
        rest = [j for j in range(len(returns)) if j != i]
        mean_of_rest = sum(sum(returns[j]) for j in rest) / sum(len(returns[j]) for j in rest)
        for t, G in enumerate(own):
            alive = [j for j in rest if len(returns[j]) > t]
            weights = [scores[j][t].square() if per_parameter else scores[j][t].square().sum() for j in alive]
            total_weight = sum(weights) if alive else th.zeros(1)
            weighted = sum(w * returns[j][t] for w, j in zip(weights, alive, strict=True)) if alive else th.zeros(1)
            b = th.where(total_weight > 0, weighted / total_weight, mean_of_rest)
            total = total + scores[i][t] * (G - b)
    return total / len(trajectories)


@pytest.mark.parametrize("max_numbers", [1, 40, 10**6])  # of a block of steps: one step, a few, all
@pytest.mark.parametrize("baseline", ["optimal", "optimal_per_parameter"])
def test_variance_optimal_baselines_equal_their_definition_for_ragged_episodes(baseline, max_numbers):
    model = make_model(baseline=baseline)
    model.max_numbers = max_numbers
    batch = [TRAJECTORIES[3], TRAJECTORIES[1], TRAJECTORIES[0], TRAJECTORIES[1]]
    _, gradient = estimate(model, batch)
    assert_equal(gradient, defined_gradient(model, batch, per_parameter=baseline == "optimal_per_parameter"))
    _, plain = estimate(make_model(baseline="loo"), batch)
    assert (gradient - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("baseline", ["optimal", "optimal_per_parameter"])
def test_variance_optimal_baselines_are_those_of_the_normalised_returns(baseline):
    """To the 1e-8 that is added to the deviation."""
    batch = [TRAJECTORIES[3], TRAJECTORIES[1], TRAJECTORIES[0], TRAJECTORIES[1]]
    model = make_model(baseline=baseline, normalize_returns=True)
    _, gradient = estimate(model, batch)
    assert_equal(gradient, defined_gradient(model, batch, baseline == "optimal_per_parameter", normalized=True), rel=1e-7)
    _, raw = estimate(make_model(baseline=baseline), batch)
    assert (gradient - raw).norm() > 0.1 * raw.norm()


def test_chunks_of_rows_give_the_gradient_of_the_whole():
    """The same episodes are repeated until they have more rows than are evaluated at once."""
    model = make_model(baseline=None)
    batch = [TRAJECTORIES[3], TRAJECTORIES[1], TRAJECTORIES[0]]
    times = 2 * MAX_ROWS // sum(len(states) for states, *_ in batch) + 1
    _, whole = estimate(model, batch)
    _, in_chunks = estimate(model, times * batch)
    assert_equal(in_chunks, whole, rel=1e-11)
