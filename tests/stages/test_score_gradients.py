"""Per-sample scores of SB3's policies against one backward pass a sample."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from support.capabilities import MIXED
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import REINFORCE
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.rollout import as_policy_input
from sb3_pgx.stages.score_gradients import map_scores

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
CASES = {
    "Box to Discrete": ("MlpPolicy", BOX, spaces.Discrete(3), {}),
    "Discrete to Box": ("MlpPolicy", spaces.Discrete(4), BOX, {}),
    "MultiDiscrete to MultiDiscrete": ("MlpPolicy", spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]), {}),
    "MultiBinary to MultiBinary": ("MlpPolicy", spaces.MultiBinary(3), spaces.MultiBinary(2), {}),
    "Box to Dict": ("MlpPolicy", BOX, MIXED, {}),
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
    policy, rollout = model.policy, model.last_rollout
    policy.set_training_mode(False)
    space_before = policy.observation_space
    places_before = {n: id(p) for n, p in policy.named_parameters(remove_duplicate=False)}
    batch = rollout.rows()
    actor, _ = split_parameters(policy)
    distribution_before = dict(vars(policy.action_dist))
    result = map_scores(lambda g: g, policy, actor, batch.inputs, batch.actions, action_space)
    assert all(vars(policy.action_dist)[k] is v for k, v in distribution_before.items())
    _, log_prob, _ = policy.evaluate_actions(batch.observations, as_policy_input(batch.actions, action_space))
    for b in range(len(batch)):
        gradients = th.autograd.grad(log_prob[b], list(actor.values()), retain_graph=True)
        th.testing.assert_close(result[b], th.cat([g.flatten() for g in gradients]), rtol=1e-3, atol=1e-5)
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


def test_parameters_tied_within_and_across_modules_are_all_replaced():
    class Tied(REINFORCE.policy_aliases["MlpPolicy"]):  # type: ignore[misc,name-defined]
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.tied = th.nn.Module()
            self.tied.first = self.tied.second = self.action_net.bias

        def _get_action_dist_from_latent(self, latent_pi):
            shifted = self.action_net(latent_pi) + self.tied.first * 2 + self.tied.second * 3
            return self.action_dist.proba_distribution(shifted, self.log_std)

    model = REINFORCE(Tied, vectorised(AnySpace(BOX, BOX)), n_episodes=1, seed=0, device=DEVICE).learn(5)
    model.policy.set_training_mode(False)
    batch, (actor, _) = model.last_rollout.rows(), split_parameters(model.policy)
    result = map_scores(lambda g: g, model.policy, actor, batch.inputs, batch.actions, model.action_space)
    _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions.float())
    expected = th.cat([g.flatten() for g in th.autograd.grad(log_prob[0], list(actor.values()))])
    th.testing.assert_close(result[0], expected, rtol=1e-3, atol=1e-5)
