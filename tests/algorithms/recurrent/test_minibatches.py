"""Minibatches of a recurrent rollout: which rows they have, and that their sequences start from the right states."""

import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from support.array_environments import TERMINATED, TRUNCATED, Arrays
from support.recurrent import CELLS, LAYOUTS, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import PPO
from sb3_pgx.core.evaluation import evaluate_actions

LENGTHS = [(3, TRUNCATED), (4, TERMINATED)], [(5, TERMINATED)], [(2, TRUNCATED)]


def one_by_one():
    return vectorised(Scripted([3, 2, 7]), Scripted([4, 1]), Scripted([50]))


def collected(env, policy="MlpLstmPolicy", layout="separate", **kwargs):
    """Return a model that has stayed as it was, after a second rollout of 9 steps of 3 environments."""
    settings = dict(n_steps=9, batch_size=27, n_epochs=1, seed=0, device=DEVICE, policy_kwargs=policy_kwargs(layout))
    return PPO(policy, env, 0.0, **{**settings, **kwargs}).learn(54)


def check_sequences(model, batches):
    """Assert that the policy that acted gives the rollout's numbers again, which needs the states before each sequence."""
    rollout = model.last_rollout
    for batch in batches:
        with th.no_grad():
            now = evaluate_actions(model.policy, batch.inputs, batch.actions)
        th.testing.assert_close(now.values, batch.values, rtol=1e-5, atol=1e-5)
        th.testing.assert_close(now.log_prob, batch.log_prob, rtol=1e-5, atol=1e-5)
    values = th.cat([batch.values for batch in batches]).sort().values
    return values, rollout.values[rollout.valid].sort().values


@pytest.mark.parametrize("batch_size", [None, 5, 9, 27])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_an_epoch_has_every_row_once_with_its_state(cell, layout, batch_size):
    model = collected(one_by_one(), f"Mlp{cell}Policy", layout)
    batches = list(model.minibatches(model.last_rollout, batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    seen, rows = check_sequences(model, batches)
    assert th.equal(seen, rows)


@pytest.mark.parametrize("sequence_length", [1, 4, 9])
def test_pieces_are_short_and_in_random_order(sequence_length):
    model = collected(one_by_one(), sequence_length=sequence_length)
    batches = list(model.minibatches(model.last_rollout, 9))
    seen, rows = check_sequences(model, batches)
    assert th.equal(seen, rows)
    assert all(len(batch.memory["sizes"]) <= sequence_length for batch in batches)
    again = list(model.minibatches(model.last_rollout, 9))
    assert not th.equal(batches[0].values.sort().values, again[0].values.sort().values)


def test_minibatches_are_consecutive_rows_from_a_random_one_on():
    """Observations are (episode, step): sort a batch's rows by their place in the rollout, environment after environment."""
    model = collected(one_by_one())
    flat = model.last_rollout.values.T.flatten()
    np.random.seed(5)
    first = np.random.randint(27)
    np.random.seed(5)
    for k, batch in enumerate(model.minibatches(model.last_rollout, 9)):
        expected = flat.roll(-first)[9 * k : 9 * k + 9]
        assert th.equal(batch.values.sort().values, expected.sort().values)


@pytest.mark.parametrize("sequence_length", [None, 4])
@pytest.mark.filterwarnings("ignore:batch_size=7 does not divide:UserWarning")
def test_rows_that_only_reset_an_environment_are_left_out(sequence_length):
    env = Arrays(LENGTHS, AutoresetMode.NEXT_STEP, wild=1e3)
    model = collected(env, batch_size=7, sequence_length=sequence_length)
    batches = list(model.minibatches(model.last_rollout, 7))
    assert {len(batch) for batch in batches} == {7}  # the last one is filled up
    seen, rows = check_sequences(model, batches)
    assert set(rows.tolist()) == set(seen.tolist()) and len(rows) < 27
