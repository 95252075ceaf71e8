"""ACER's policies: what they say of actions, and their standard deviation."""

import numpy as np
import pytest
import torch as th
from support.acer_models import BOTH, distribution_of, envs, make, some_observations
from support.capabilities import OwnExtractor
from support.small_environments import DEVICE

from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.acer.policies import ACERPolicy


@pytest.mark.parametrize(
    "options", [{}, dict(learn_std=True), dict(state_dependent_std=True)], ids=["", "learned", "of state"]
)
def test_the_standard_deviation_is_the_papers_until_it_is_to_be_learned(options):
    model = make("Box", policy_kwargs=options)
    observations = th.as_tensor(some_observations(), device=DEVICE)
    before = distribution_of(model.policy, observations)[:, 2:]
    if options != dict(state_dependent_std=True):
        th.testing.assert_close(before, th.full_like(before, 0.3))
    model.learn(60)
    after = distribution_of(model.policy, observations)[:, 2:]
    assert model.n_gradient_steps > 0 and th.equal(before, after) == (not options) == (not model.policy.learns_std)


@BOTH
@pytest.mark.parametrize("share", [True, False], ids=["shared", "separate"])
def test_every_way_of_asking_a_policy_gives_the_same_answer(kind, share):
    kwargs = dict(features_extractor_class=OwnExtractor, share_features_extractor=share)
    policy = make(kind, policy_kwargs=kwargs).policy
    observations = th.as_tensor(some_observations(), device=DEVICE)
    with th.no_grad():
        actions, values, log_prob = policy(observations)
        expected = policy.evaluate_actions(observations, actions)
        th.testing.assert_close((values, log_prob), expected[:2])
        th.testing.assert_close(policy.predict_values(observations), values)
        if kind == "Discrete":
            features = policy.pi_features_extractor(observations), policy.vf_features_extractor(observations)
            latents = policy.mlp_extractor.forward_actor(features[0]), policy.mlp_extractor.forward_critic(features[1])
            pi, q = policy.action_net(latents[0]).softmax(dim=1), policy.value_net(latents[1])
            th.testing.assert_close(values.flatten(), (pi * q).sum(dim=1))
            assert (q.mean(dim=1) - values.flatten()).abs().max() > 1e-4


def test_an_action_that_is_masked_out_leaves_every_metric_finite():
    class Masked(ACERPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            mask = th.tensor([0.0, -th.inf, 0.0])
            return self.action_dist.proba_distribution(self.action_net(latent_pi) + mask)

    model = ACER(Masked, envs("Discrete"), n_steps=6, buffer_size=60, replay_start=12, seed=0, device=DEVICE).learn(48)
    logged = {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}
    assert "train/trust_region_fraction" in logged and all(np.isfinite(value) for value in logged.values()), logged
