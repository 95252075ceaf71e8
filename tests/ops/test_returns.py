"""Returns and advantages against their definitions: sums over the future, written out."""

from itertools import product

import pytest
import torch as th

from sb3_pgx.ops.returns import gae, monte_carlo, next_values, retrace, v_trace

GAMMA = 0.9


@pytest.fixture(params=[14, 1, 2, 3, 8, 16, 17, 33])
def random_rollout(request):
    """Terminations, truncations, padding and an unfinished last episode, at random, in T rows."""
    T, N = request.param, 4
    generator = th.Generator().manual_seed(T)

    def random(*shape):
        return th.randn(*shape, generator=generator, dtype=th.float64)

    terminated = th.rand(T, N, generator=generator) < 0.15
    truncated = (th.rand(T, N, generator=generator) < 0.15) & ~terminated
    values, final_values = random(T + 1, N), random(T, N)
    next_values = th.where(terminated, 0.0, th.where(truncated, final_values, values[1:]))
    ends = terminated | truncated
    valid = th.ones(T, N, dtype=th.bool)
    valid[9:, 1] = False  # an environment that waits from here on
    return dict(rewards=random(T, N), values=values[:-1], next_values=next_values, ends=ends, valid=valid)


def future(ends, valid, t, n):
    """Rows t, t+1, ... of environment n up to the end of its episode, or to where the data stop."""
    rows = []
    for k in range(t, len(ends)):
        if not valid[k, n]:
            break
        rows.append(k)
        if ends[k, n]:
            break
    return rows


def n_step_return(r, t, n, steps):
    """Discounted sum of at most ``steps`` rewards, and the value after the last of them."""
    rows = future(r["ends"], r["valid"], t, n)[:steps]
    total = sum(GAMMA**i * r["rewards"][k, n] for i, k in enumerate(rows))
    return total + GAMMA ** len(rows) * r["next_values"][rows[-1], n]


def over_valid_rows(r, definition):
    expected = th.zeros_like(r["rewards"])
    for t, n in r["valid"].nonzero().tolist():
        expected[t, n] = definition(t, n)
    return expected


def test_monte_carlo_returns_run_to_the_end_of_the_data(random_rollout):
    r = random_rollout
    expected = over_valid_rows(r, lambda t, n: n_step_return(r, t, n, 10**6))
    result = monte_carlo(r["rewards"], r["next_values"], r["ends"], GAMMA, r["valid"])
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_exponentially_weighted_average_of_n_step_advantages(random_rollout, gae_lambda):
    r = random_rollout

    def definition(t, n):
        steps = len(future(r["ends"], r["valid"], t, n))
        weights = [(1 - gae_lambda) * gae_lambda ** (k - 1) for k in range(1, steps)] + [gae_lambda ** (steps - 1)]
        average = sum(w * n_step_return(r, t, n, k) for k, w in enumerate(weights, start=1))
        return average - r["values"][t, n]

    arguments = (r["rewards"], r["values"], r["next_values"], r["ends"], GAMMA, gae_lambda, r["valid"])
    th.testing.assert_close(gae(*arguments), over_valid_rows(r, definition), rtol=1e-12, atol=1e-12)


def test_returns_by_hand_with_a_termination_a_truncation_and_an_unfinished_episode():
    column = [1.0, 10.0, 100.0, 2.0, 20.0, 3.0]  # episodes: rows 0-2 terminated, rows 3-4 truncated, row 5 unfinished
    rewards = th.tensor(column)[:, None]
    ends = th.tensor([0, 0, 1, 0, 1, 0]).bool()[:, None]
    next_values = th.tensor([7.0, 7.0, 0.0, 7.0, 4.0, 8.0])[:, None]  # 0 after termination, V(final) after truncation
    one = monte_carlo(rewards, next_values, ends, gamma=1.0)[:, 0]
    assert one.tolist() == [111.0, 110.0, 100.0, 26.0, 24.0, 11.0]
    half = monte_carlo(rewards, next_values, ends, gamma=0.5)[:, 0]
    assert half.tolist() == [31.0, 60.0, 100.0, 13.0, 22.0, 7.0]


def test_numbers_in_rows_that_do_not_count_never_reach_the_others(random_rollout):
    r = {k: v.clone() for k, v in random_rollout.items()}
    clean = gae(r["rewards"], r["values"], r["next_values"], r["ends"], GAMMA, 0.95, r["valid"])
    for name in ("rewards", "values", "next_values"):
        r[name][~r["valid"]] = float("nan")
    spoilt = gae(r["rewards"], r["values"], r["next_values"], r["ends"], GAMMA, 0.95, r["valid"])
    assert th.equal(clean, spoilt)
    assert th.isfinite(monte_carlo(r["rewards"], r["next_values"], r["ends"], GAMMA, r["valid"])).all()


def test_next_values_are_those_of_the_row_after_the_final_observation_or_nothing():
    values = th.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    last = th.tensor([7.0, 8.0, 9.0])
    terminated = th.tensor([[False, True, False], [False, False, True]])
    truncated = th.tensor([[False, False, True], [True, False, False]])
    final = th.tensor([[0.0, 0.0, 30.0], [70.0, 0.0, 0.0]])
    assert next_values(values, last, terminated, truncated, final).tolist() == [[4.0, 0.0, 30.0], [70.0, 8.0, 0.0]]
    nothing = th.zeros_like(truncated)
    assert next_values(values, last, terminated, nothing).tolist() == [[4.0, 0.0, 6.0], [7.0, 8.0, 0.0]]


# ------------------------------------------------------------------------------------------------------- off-policy


def off_policy(r, seed=7):
    """A rollout with what off-policy returns need: Q(s_t, a_t) and traces, of which some are 0 and some 1."""
    generator = th.Generator().manual_seed(seed)
    traces = (th.rand(r["rewards"].shape, generator=generator, dtype=th.float64) * 1.5 - 0.25).clamp(0.0, 1.0)
    return {**r, "action_values": th.randn(traces.shape, generator=generator, dtype=th.float64), "traces": traces}


def sum_of_surprises(r, t, n, surprises, first_trace):
    """Σ_s γ^{s−t} (product of the traces of ``first_trace``, ..., s or s − 1) surprise_s over the future of row t."""
    rows = future(r["ends"], r["valid"], t, n)
    total = 0.0
    for s in rows:
        traces = r["traces"][t + 1 : s + 1, n] if first_trace == "next" else r["traces"][t:s, n]
        total = total + GAMMA ** (s - t) * traces.prod() * surprises[s, n]
    return total


def test_retrace_is_q_plus_all_later_surprises_each_behind_the_traces_of_the_actions_since(random_rollout):
    r = off_policy(random_rollout)
    surprises = r["rewards"] + GAMMA * r["next_values"] - r["action_values"]
    expected = over_valid_rows(r, lambda t, n: r["action_values"][t, n] + sum_of_surprises(r, t, n, surprises, "next"))
    result = retrace(r["rewards"], r["action_values"], r["next_values"], r["traces"], r["ends"], GAMMA, r["valid"])
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rho_bar", [0.3, 1.0])
def test_v_trace_is_v_plus_all_later_surprises_each_behind_the_traces_of_the_actions_before(random_rollout, rho_bar):
    r = off_policy(random_rollout)
    weights = (r["traces"] * 1.7).clamp(max=rho_bar)
    surprises = weights * (r["rewards"] + GAMMA * r["next_values"] - r["values"])
    expected = over_valid_rows(r, lambda t, n: r["values"][t, n] + sum_of_surprises(r, t, n, surprises, "own"))
    result = v_trace(r["rewards"], r["values"], r["next_values"], weights, r["traces"], r["ends"], GAMMA, r["valid"])
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_on_policy_v_trace_is_the_return_to_the_end_of_the_data(random_rollout):
    r = random_rollout
    expected = over_valid_rows(r, lambda t, n: n_step_return(r, t, n, 10**6))
    one = th.ones_like(r["rewards"])
    result = v_trace(r["rewards"], r["values"], r["next_values"], one, one, r["ends"], GAMMA, r["valid"])
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_without_traces_a_return_is_one_reward_and_the_value_after_it(random_rollout):
    r = off_policy(random_rollout)
    none = th.zeros_like(r["traces"])
    result = retrace(r["rewards"], r["action_values"], r["next_values"], none, r["ends"], GAMMA, r["valid"])
    expected = th.where(r["valid"], r["rewards"] + GAMMA * r["next_values"], 0.0)
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_a_trace_of_zero_hides_all_that_came_after_it():
    T, at = 6, 3
    rewards, action_values, values = (Tabular(seed).random(T, 1) for seed in range(3))
    traces, ends = th.ones(T, 1, dtype=th.float64), th.zeros(T, 1, dtype=th.bool)
    traces[at] = 0.0  # the action of row 3 is one that the policy would never take
    before = retrace(rewards, action_values, values, traces, ends, GAMMA)
    rewards[at], action_values[at] = 100.0, -100.0
    after = retrace(rewards, action_values, values, traces, ends, GAMMA)
    assert th.equal(before[:at], after[:at]) and not th.isclose(before[at], after[at])


def test_retrace_by_hand_with_a_termination_a_truncation_and_an_unfinished_episode():
    rewards = th.tensor([1.0, 10.0, 2.0, 20.0, 3.0, 30.0])[:, None]  # rows 0-1 terminated, 2-3 truncated, 4-5 unfinished
    ends = th.tensor([0, 1, 0, 1, 0, 0]).bool()[:, None]
    next_values = th.tensor([4.0, 0.0, 4.0, 8.0, 4.0, 16.0])[:, None]  # 8 is V of the final observation
    action_values = th.tensor([99.0, 2.0, 99.0, 4.0, 99.0, 6.0])[:, None]
    traces = th.tensor([9.0, 0.5, 9.0, 0.25, 9.0, 1.0])[:, None]  # those of rows 0, 2 and 4 have nothing before them
    result = retrace(rewards, action_values, next_values, traces, ends, gamma=0.5)[:, 0].tolist()
    # 1 + ½ [4 + ½ (10 − 2)];  10;  2 + ½ [4 + ¼ (24 − 4)];  20 + ½ 8;  3 + ½ [4 + (38 − 6)];  30 + ½ 16
    assert result == [5.0, 10.0, 6.5, 24.0, 21.0, 38.0]


def test_numbers_in_rows_that_do_not_count_never_reach_off_policy_returns(random_rollout):
    r = off_policy(random_rollout)

    def both():
        common = (r["traces"], r["ends"], GAMMA, r["valid"])
        yield retrace(r["rewards"], r["action_values"], r["next_values"], *common)
        yield v_trace(r["rewards"], r["values"], r["next_values"], 2 * r["traces"], *common)

    clean = list(both())
    for name in ("rewards", "values", "next_values", "action_values", "traces"):
        r[name] = r[name].masked_fill(~r["valid"], float("nan"))
    for before, after in zip(clean, both(), strict=True):
        assert th.equal(before, after)
        assert (after[~r["valid"]] == 0).all()


class Tabular:
    """
    Three states, two actions, transitions that terminate (into state 3) and rewards of (s, a, s'), all at random; a policy
    and another one that acts. Expectations are sums over all trajectories of ``steps`` steps.
    """

    S, A, steps = 3, 2, 3

    def __init__(self, seed=0):
        self.generator = th.Generator().manual_seed(seed)
        S, A = self.S, self.A
        self.P = th.zeros(S + 1, A, S + 1, dtype=th.float64)
        self.P[:S] = (2 * self.random(S, A, S + 1)).softmax(dim=2)
        self.P[S, :, S] = 1.0  # what follows the end of the episode: rows that must not count
        self.R = self.random(S + 1, A, S + 1)
        self.pi, self.mu = (self.random(S + 1, A).mul(1.5).softmax(dim=1) for _ in range(2))

    def random(self, *shape):
        return th.randn(*shape, generator=self.generator, dtype=th.float64)

    def values_of(self, policy):
        """V of a policy by linear algebra, 0 in the terminal state, ``[S + 1]``."""
        S = self.S
        chain = th.einsum("sa,sat->st", policy, self.P)[:S, :S]
        rewards = th.einsum("sa,sat,sat->s", policy, self.P, self.R)[:S]
        return th.cat([th.linalg.solve(th.eye(S, dtype=th.float64) - GAMMA * chain, rewards), th.zeros(1, dtype=th.float64)])

    def action_values_of(self, policy):
        """Q of a policy, 0 in the terminal state, ``[S + 1, A]``."""
        q = (self.P * (self.R + GAMMA * self.values_of(policy))).sum(dim=2)
        q[self.S] = 0.0
        return q

    def trajectories(self, acting):
        """As columns: states ``[steps + 1, N]``, actions ``[steps, N]``, and the probability of all but s_0 and a_0."""
        S, A, T = self.S, self.A, self.steps
        columns = list(product(range(S), *([range(A), range(S + 1)] * T)))
        table = th.tensor(columns).T
        states, actions = table[0::2], table[1::2]
        probability = th.ones(len(columns), dtype=th.float64)
        for t in range(T):
            probability = probability * self.P[states[t], actions[t], states[t + 1]]
            if t > 0:
                probability = probability * acting[states[t], actions[t]]
        return states, actions, probability

    def data(self, states, actions, values):
        """Rewards, V(s_{t+1}) and ends of trajectories."""
        rewards, ends = self.R[states[:-1], actions, states[1:]], states[1:] == self.S
        return rewards, values[states[1:]].masked_fill(ends, 0.0), ends

    def expected_returns(self, q, acting, traces):
        """E[Q^ret | s_0, a_0] under ``acting``, with V = Σ_a π Q, ``[S, A]``."""
        states, actions, probability = self.trajectories(acting)
        v = (self.pi * q).sum(dim=1)
        rewards, following, ends = self.data(states, actions, v)
        s, a = states[:-1], actions
        returns = retrace(rewards, q[s, a], following, traces[s, a], ends, GAMMA)[0]
        result = th.zeros(self.S, self.A, dtype=th.float64)
        return result.index_put((states[0], actions[0]), probability * returns, accumulate=True)

    def expected_v_trace(self, v, weights, traces):
        """E[v_0 | s_0] under μ, ``[S]``."""
        states, actions, probability = self.trajectories(self.mu)
        rewards, following, ends = self.data(states, actions, v)
        s, a = states[:-1], actions
        returns = v_trace(rewards, v[s], following, weights[s, a], traces[s, a], ends, GAMMA)[0]
        result = th.zeros(self.S, dtype=th.float64)
        return result.index_put((states[0],), self.mu[states[0], actions[0]] * probability * returns, accumulate=True)


@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
def test_in_expectation_over_any_behaviour_retrace_leaves_the_q_of_the_policy_as_it_is(trace):
    mdp = Tabular()
    q = mdp.action_values_of(mdp.pi)
    traces = trace * (mdp.pi / mdp.mu).clamp(max=1.0)
    th.testing.assert_close(mdp.expected_returns(q, mdp.mu, traces), q[: mdp.S], rtol=1e-12, atol=1e-12)
    of_behaviour = mdp.action_values_of(mdp.mu)
    assert (mdp.expected_returns(of_behaviour, mdp.mu, traces) - of_behaviour[: mdp.S]).abs().max() > 0.01


def test_on_policy_retrace_is_the_n_step_return_in_expectation_whatever_q_says_in_between():
    mdp = Tabular()
    q = mdp.random(mdp.S + 1, mdp.A)
    v = (mdp.pi * q).sum(dim=1)
    v[mdp.S] = 0.0
    expected = v  # n steps of Bellman's operator
    for _ in range(mdp.steps):
        of_actions = (mdp.P * (mdp.R + GAMMA * expected)).sum(dim=2)
        of_actions[mdp.S] = 0.0
        expected = (mdp.pi * of_actions).sum(dim=1)
    result = mdp.expected_returns(q, mdp.pi, th.ones_like(mdp.pi))
    th.testing.assert_close(result, of_actions[: mdp.S], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_retrace_brings_any_two_qs_together_at_least_by_gamma_and_further_than_one_step_does(seed):
    mdp = Tabular(seed)
    one, other = (mdp.random(mdp.S + 1, mdp.A) for _ in range(2))
    traces = (mdp.pi / mdp.mu).clamp(max=1.0)
    for q in (one, other):
        q[mdp.S] = 0.0
    apart = (one - other).abs().max()
    after = mdp.expected_returns(one, mdp.mu, traces) - mdp.expected_returns(other, mdp.mu, traces)
    assert 0 < after.abs().max() <= GAMMA * apart
    # The most that any two can stay apart: the operator is linear but for a constant, and this is its norm.
    basis = th.eye(mdp.S * mdp.A, dtype=th.float64).view(-1, mdp.S, mdp.A)
    worst = []
    for chosen in (traces, th.zeros_like(traces)):
        constant = mdp.expected_returns(th.zeros_like(one), mdp.mu, chosen)
        columns = [mdp.expected_returns(th.cat([e, th.zeros(1, mdp.A)]), mdp.mu, chosen) - constant for e in basis]
        worst.append(th.stack(columns).abs().sum(dim=0).max())
    assert worst[0] < worst[1] <= GAMMA


@pytest.mark.parametrize("rho_bar, c_bar", [(0.5, 0.5), (1.0, 0.3), (1.0, 1.0), (float("inf"), 1.0)])
def test_v_traces_fixed_point_is_the_v_of_a_policy_between_behaviour_and_target(rho_bar, c_bar):
    mdp = Tabular()
    ratio = mdp.pi / mdp.mu
    between = th.minimum(rho_bar * mdp.mu, mdp.pi)
    between = between / between.sum(dim=1, keepdim=True)
    weights, traces = ratio.clamp(max=rho_bar), ratio.clamp(max=c_bar)
    v, target = mdp.values_of(between), mdp.values_of(mdp.pi)
    th.testing.assert_close(mdp.expected_v_trace(v, weights, traces), v[: mdp.S], rtol=1e-12, atol=1e-12)
    moved = (mdp.expected_v_trace(target, weights, traces) - target[: mdp.S]).abs().max().item()
    assert moved < 1e-12 if rho_bar == float("inf") else moved > 1e-3
