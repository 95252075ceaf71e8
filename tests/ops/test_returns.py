"""Returns and advantages against their definitions: sums over the future, written out."""

import pytest
import torch as th

from sb3_pgx.ops.returns import gae, monte_carlo, n_step, next_values

GAMMA = 0.9


@pytest.fixture(params=[0, 1, 2])
def random_rollout(request):
    """Terminations, truncations, padding and an unfinished last episode, at random."""
    generator = th.Generator().manual_seed(request.param)

    def random(*shape):
        return th.randn(*shape, generator=generator, dtype=th.float64)

    T, N = 14, 4
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


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_n_step_returns_equal_their_sum_over_the_future(random_rollout, steps):
    r = random_rollout
    expected = over_valid_rows(r, lambda t, n: n_step_return(r, t, n, steps))
    result = n_step(r["rewards"], r["next_values"], r["ends"], GAMMA, steps, r["valid"])
    th.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


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


def test_n_step_returns_refuse_zero_steps(random_rollout):
    r = random_rollout
    with pytest.raises(ValueError, match="n >= 1"):
        n_step(r["rewards"], r["next_values"], r["ends"], GAMMA, 0)


def test_next_values_are_those_of_the_row_after_the_final_observation_or_nothing():
    values = th.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    last = th.tensor([7.0, 8.0, 9.0])
    terminated = th.tensor([[False, True, False], [False, False, True]])
    truncated = th.tensor([[False, False, True], [True, False, False]])
    final = th.tensor([[0.0, 0.0, 30.0], [70.0, 0.0, 0.0]])
    assert next_values(values, last, terminated, truncated, final).tolist() == [[4.0, 0.0, 30.0], [70.0, 8.0, 0.0]]
    nothing = th.zeros_like(truncated)
    assert next_values(values, last, terminated, nothing).tolist() == [[4.0, 0.0, 6.0], [7.0, 8.0, 0.0]]
