"""Recurrent policies in Dict and Tuple action spaces, beside the same policies in MultiDiscrete spaces."""

from itertools import product

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import each_value, mostly_slow
from support.capabilities import BOX, DICT, IMAGE, MIXED, envs, train
from support.masked_environments import MIXED as MASKED_MIXED
from support.masked_environments import Masked
from support.models import assert_same, make, parameters
from support.recurrent import CELLS, policy_kwargs
from support.small_environments import DEVICE, vectorised

from sb3_pgx import PPO, RecurrentPPO
from sb3_pgx.core.mixed_policies import MixedActionsMixin
from sb3_pgx.core.mixed_spaces import by_part
from sb3_pgx.core.policy_names import RECURRENT_POLICIES
from sb3_pgx.core.recurrent_policies import MixedActionsMlpLstmPolicy

ALGORITHMS = ["a2c", "npg", "ppo", "ppo_penalty", "reinforce", "reinforce_baseline", "trpo"]
PAIR, PARTS = spaces.MultiDiscrete([3, 2]), spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(2))
SETTINGS = dict(n_steps=12, batch_size=8, seed=0, device=DEVICE)


def masked(space):
    return vectorised(*(Masked(space, truncates=True, length=length) for length in (4, 7)))


@pytest.mark.parametrize("policy", mostly_slow(RECURRENT_POLICIES, ["MlpLstmPolicy", "MultiInputGruPolicy"]))
def test_every_recurrent_policy_acts_in_all_parts(policy):
    space = DICT if "Multi" in policy else IMAGE if "Cnn" in policy else BOX
    model = train("ppo", policy, envs(space, MIXED), policy_kwargs=dict(lstm_hidden_size=8))
    assert isinstance(model.policy, MixedActionsMixin) and type(model.policy).__name__ == f"MixedActions{policy}"
    assert model.policy.log_std.shape == (5,), "one per number of the Box parts"


@pytest.mark.parametrize(
    "name, cell", mostly_slow(product(ALGORITHMS, CELLS), [("ppo", "Gru"), ("trpo", "Lstm"), ("reinforce", "Gru")])
)
def test_masked_parts_train_as_masked_choices(name, cell):
    """Up to rounding: the logits of a masked part are normalised by other operations than those of masked choices."""
    trained = []
    for space in (PAIR, PARTS):
        model = make(name, masked(space), f"Mlp{cell}Policy", policy_kwargs=policy_kwargs())
        before = parameters(model)
        trained.append(model.learn(60))  # the environments raise on an invalid action
    choices, parts = trained
    th.testing.assert_close(parameters(parts), parameters(choices), rtol=1e-4, atol=1e-5)
    assert th.equal(parts.last_rollout.actions.long(), choices.last_rollout.actions.long())
    assert th.equal(parts.last_rollout.action_masks, choices.last_rollout.action_masks)
    assert not th.equal(parameters(parts)["lstm_actor.weight_hh_l0"], before["lstm_actor.weight_hh_l0"])


def test_a_box_among_masked_choices_keeps_its_freedom():
    model = PPO("MlpLstmPolicy", masked(MASKED_MIXED), policy_kwargs=policy_kwargs(), **SETTINGS).learn(48)
    assert model.last_rollout.action_masks.shape == (12, 2, 3 + 2 + 3)
    numbers = dict(zip(MASKED_MIXED, by_part(model.last_rollout.actions, MASKED_MIXED), strict=True))["move"][0]
    assert len(numbers.unique()) == 12 * 2 * 2


@pytest.mark.parametrize("cell", CELLS)
def test_predicting_hands_the_state_on_as_for_choices(cell):
    choices, parts = (
        PPO(f"Mlp{cell}Policy", envs(action_space=space), policy_kwargs=policy_kwargs(), **SETTINGS) for space in (PAIR, PARTS)
    )
    with th.no_grad():
        for p, q in zip(choices.policy.parameters(), parts.policy.parameters(), strict=True):
            p.mul_(3)
            q.copy_(p)
    states, answers = [None, None], []
    for step in range(12):
        observations = np.stack([BOX.sample(), BOX.sample()])
        starts = np.array([step == 0, step % 5 == 0])
        expected, states[0] = choices.predict(observations, states[0], starts, deterministic=True)
        for predictor in (parts, parts.policy):
            actions, state = predictor.predict(observations, states[1], starts, deterministic=True)
            assert [[action["a"], action["b"]] for action in actions] == expected.tolist()
        states[1] = state
        assert all(map(np.array_equal, states[0], states[1]))
        answers.append(expected)
    assert len(np.unique(np.concatenate(answers), axis=0)) > 1
    one, state = parts.predict(BOX.sample())
    assert PARTS.contains({key: np.int64(part) for key, part in one.items()}) and state[0].shape == (1, 1, 4)


@pytest.mark.parametrize("cell, algorithm", each_value(CELLS, [PPO, RecurrentPPO]))
def test_a_file_holds_policy_and_memory(cell, algorithm, tmp_path):
    model = algorithm(f"Mlp{cell}Policy", envs(action_space=MIXED), policy_kwargs=policy_kwargs(), **SETTINGS).learn(24)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=envs(action_space=MIXED), device=DEVICE)
    assert type(loaded.policy) is type(model.policy)
    assert_same(parameters(loaded), parameters(model))
    states = [None, None]
    for _ in range(4):
        observation = BOX.sample()
        (ours, states[0]), (theirs, states[1]) = (
            of.predict(observation, state, deterministic=True) for of, state in zip((loaded, model), states, strict=True)
        )
        assert all(np.array_equal(ours[key], theirs[key]) for key in MIXED)
    loaded.learn(24, reset_num_timesteps=False)


class OwnMemory(MixedActionsMlpLstmPolicy):
    """A user's policy for mixed actions."""


def test_a_users_policy_may_be_derived_from_ours():
    model = PPO(OwnMemory, envs(action_space=MIXED), policy_kwargs=policy_kwargs(), **SETTINGS).learn(24)
    assert type(model.policy) is OwnMemory
