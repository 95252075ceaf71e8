"""Per-sample scores of SB3's policies against one backward pass a sample."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from problems import DEVICE, AnySpace, vectorised

from sb3_pgx import REINFORCE
from sb3_pgx.common.evaluate import as_policy_input
from sb3_pgx.common.policies import split_parameters
from sb3_pgx.common.scores import scores, squared_norms

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
CASES = {
    "Box to Discrete": ("MlpPolicy", BOX, spaces.Discrete(3), {}),
    "Discrete to Box": ("MlpPolicy", spaces.Discrete(4), BOX, {}),
    "MultiDiscrete to MultiDiscrete": ("MlpPolicy", spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]), {}),
    "MultiBinary to MultiBinary": ("MlpPolicy", spaces.MultiBinary(3), spaces.MultiBinary(2), {}),
    "gSDE": ("MlpPolicy", BOX, BOX, dict(use_sde=True)),
    "squashed gSDE": ("MlpPolicy", BOX, BOX, dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "bounded state-dependent std": (
        "MlpPolicy",
        BOX,
        BOX,
        dict(policy_kwargs=dict(log_std_bounds=(-3, 1), state_dependent_std=True)),
    ),
    "images": ("CnnPolicy", IMAGE, spaces.Discrete(2), {}),
    "Dict": ("MultiInputPolicy", spaces.Dict({"a": BOX, "b": spaces.Discrete(3), "c": IMAGE}), spaces.Discrete(2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_one_backward_pass_a_sample(case):
    policy_name, observation_space, action_space, kwargs = CASES[case]
    env = vectorised(AnySpace(observation_space, action_space))
    model = REINFORCE(policy_name, env, n_episodes=1, seed=0, device=DEVICE, **kwargs).learn(5)
    policy, rollout = model.policy, model._rollout
    policy.set_training_mode(False)
    space_before = policy.observation_space
    places_before = {n: id(p) for n, p in policy.named_parameters(remove_duplicate=False)}
    batch = rollout.rows()
    actor, _ = split_parameters(policy)
    chunks = list(scores(policy, actor, batch.observations, batch.actions, action_space))
    result = th.cat([g for _, g in chunks])
    _, log_prob, _ = policy.evaluate_actions(batch.observations, as_policy_input(batch.actions, action_space))
    for b in range(len(batch)):
        gradients = th.autograd.grad(log_prob[b], list(actor.values()), retain_graph=True)
        th.testing.assert_close(result[b], th.cat([g.flatten() for g in gradients]), rtol=1e-3, atol=1e-5)
    th.testing.assert_close(squared_norms(iter(chunks)), result.square().sum(dim=1))
    assert policy.observation_space is space_before
    assert {n: id(p) for n, p in policy.named_parameters(remove_duplicate=False)} == places_before


def test_a_policy_that_cannot_be_differentiated_sample_by_sample_is_an_error_with_the_alternative():
    class Reads(REINFORCE.policy_aliases["MlpPolicy"]):  # type: ignore[misc,name-defined]
        def evaluate_actions(self, obs, actions):
            if obs.sum().item() > 1e9:
                raise AssertionError
            return super().evaluate_actions(obs, actions)

    model = REINFORCE(Reads, vectorised(AnySpace(BOX, BOX)), baseline="optimal", device=DEVICE)
    with pytest.raises(ValueError, match=r'Reads cannot be differentiated .*baseline="loo"'):
        model.learn(50)
