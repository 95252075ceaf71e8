"""The prioritised replay memory: what it draws, how often, and what remains of it in a file."""

import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.small_environments import AnySpace

from sb3_pgx.core.prioritized_replay import PrioritizedReplayBuffer

BOX, ACTION = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


def filled(cls=PrioritizedReplayBuffer, steps=10, size=12, n_envs=2, **kwargs):
    """A memory in which step t of environment e has the observation 100 e + t and the reward t + 1."""
    memory = cls(size * n_envs, BOX, ACTION, device="cpu", n_envs=n_envs, **kwargs)
    for t in range(steps):
        now = 100.0 * np.arange(n_envs)[:, None] + t
        ends = np.array([t % 5 == 4, t % 4 == 3][:n_envs])  # environment 0 terminates, environment 1 is truncated
        infos = [{"TimeLimit.truncated": bool(e == 1 and end)} for e, end in enumerate(ends)]
        memory.add(now, now + 0.5, now / 1000, np.full(n_envs, t + 1.0), ends, infos)
    return memory


def rows_of(batch):
    return batch.rows.numpy()


@pytest.mark.parametrize("steps, n_steps", [(10, 3), (10, 1), (29, 4), (1, 3)])
def test_its_transitions_are_sb3s_n_step_transitions(steps, n_steps, monkeypatch):
    """SB3's memory is made to draw the rows that ours has drawn."""
    ours = filled(steps=steps, n_steps=n_steps, gamma=0.9)
    theirs = filled(NStepReplayBuffer, steps=steps, n_steps=n_steps, gamma=0.9)
    batch = ours.sample(64)
    times, envs = np.divmod(rows_of(batch), 2)
    draws = iter([times, envs])
    monkeypatch.setattr(np.random, "randint", lambda *args, **kwargs: next(draws))
    expected = theirs.sample(64)
    for name in ("observations", "actions", "next_observations", "dones", "rewards", "discounts"):
        one, other = getattr(batch, name), getattr(expected, name)
        assert one.dtype == other.dtype and th.allclose(one, other, rtol=1e-6, atol=0), name


def test_n_step_returns_by_hand():
    batch = filled(n_steps=3, gamma=0.5).sample(200)
    by_row = {int(row): i for i, row in enumerate(batch.rows)}

    def transition(t, e):
        i = by_row[2 * t + e]
        parts = (batch.rewards, batch.next_observations, batch.dones, batch.discounts)
        return tuple(part[i].item() for part in parts)

    assert transition(0, 0) == (1 + 0.5 * 2 + 0.25 * 3, 2.5, 0, 0.125)
    assert transition(3, 0) == (4 + 0.5 * 5, 4.5, 1, 0.25)  # terminates at step 4
    assert transition(2, 1) == (3 + 0.5 * 4, 103.5, 0, 0.25)  # truncated at step 3: bootstraps
    assert transition(8, 1) == (9 + 0.5 * 10, 109.5, 0, 0.25)  # the newest step ends it


def test_transitions_are_drawn_in_proportion_to_their_priorities():
    memory = filled(alpha=0.5)
    errors = np.arange(20.0) ** 2  # so that p^α is the row's number
    memory.update_priorities(th.arange(20), errors)
    expected = np.arange(20) / 190
    counts = np.zeros(20)
    for _ in range(200):
        batch = memory.sample(100)
        counts += np.bincount(rows_of(batch), minlength=20)
        assert np.allclose(batch.probabilities[:, 0], 20 * expected[rows_of(batch)], rtol=1e-3, atol=1e-3)
    spread = np.sqrt(20_000 * expected * (1 - expected)) + 1e-9
    assert np.all(np.abs(counts - 20_000 * expected) < 4 * spread + 1)
    # Of 20 draws, the p-th twentieth of the sum gives the p-th one.
    assert np.all(np.diff(rows_of(memory.sample(20))) >= 0)


def test_importance_weights_undo_the_priorities():
    """Σ_i P(i) (R P(i))^−1 x_i is the mean of x."""
    memory = filled(alpha=0.7)
    memory.update_priorities(th.arange(20), np.random.default_rng(0).exponential(size=20))
    batch = memory.sample(50_000)
    weighted = rows_of(batch) / batch.probabilities[:, 0].numpy()
    assert weighted.mean() == pytest.approx(np.arange(20).mean(), abs=0.05)
    assert abs(rows_of(batch).mean() - np.arange(20).mean()) > 0.5


def test_new_transitions_have_the_largest_priority_and_take_the_place_of_old_ones():
    memory = filled(steps=12, alpha=1.0)
    memory.update_priorities(th.arange(24), np.arange(1.0, 25.0))
    memory.add(*np.zeros((2, 2, 1)), np.zeros((2, 1)), np.zeros(2), np.zeros(2), [{}, {}])
    assert memory.pos == 1 and memory.priorities[:2] == pytest.approx([24, 24], abs=1e-4)
    drawn = np.bincount(rows_of(memory.sample(48_000)), minlength=24)
    expected = np.array([24, 24, *range(3, 25)])
    assert drawn == pytest.approx(48_000 * expected / expected.sum(), abs=2)


def test_rows_that_are_empty_are_never_drawn():
    memory = filled(steps=3, size=1000)
    memory.update_priorities(th.arange(6), np.zeros(6))  # ε alone
    assert rows_of(memory.sample(5000)).max() == 5


def test_a_file_holds_all_of_it():
    memory = filled(steps=17, alpha=0.9)
    memory.update_priorities(th.arange(24), np.random.default_rng(1).exponential(size=24))
    again = pickle.loads(pickle.dumps(memory))
    for _ in range(3):
        batches = []
        for m in (memory, again):
            np.random.seed(5)
            batches.append(m.sample(50))
            m.update_priorities(batches[-1].rows, batches[-1].rewards[:, 0].abs())
        assert all(th.equal(one, other) for one, other in zip(*batches, strict=True))


def test_rewards_and_observations_are_normalised():
    env = VecNormalize(DummyVecEnv([lambda: AnySpace(BOX, ACTION)] * 2))
    env.obs_rms.mean[:], env.obs_rms.var[:], env.ret_rms.var = 50.0, 4.0, 25.0
    memory = filled(n_steps=1)
    plain, batch = memory.sample(40), memory.sample(40, env=env)
    t = plain.rows.numpy() // 2
    assert np.array_equal(plain.rewards[:, 0], t + 1.0)
    t, e = np.divmod(rows_of(batch), 2)
    assert np.allclose(batch.rewards[:, 0], np.clip((t + 1) / 5, -10, 10), rtol=1e-5)
    assert np.allclose(batch.observations[:, 0], np.clip((100 * e + t - 50) / 2, -10, 10), rtol=1e-5)
