"""The average policy that ACER's trust region is around."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch as th
from support.acer_models import BOTH, Normalising, distribution_of, flat, make, watch_steps

from sb3_pgx.algorithms.acer import ACER


@BOTH
@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "buffers"])
def test_the_average_policy_is_the_exponentially_weighted_sum_of_all_policies(kind, batch_norm):
    model = make(kind, average_coef=0.8, policy_kwargs=dict(features_extractor_class=Normalising) if batch_norm else {})
    start = flat(model.policy)
    assert th.equal(flat(model.average_policy), start)
    counters = [x for x in model.policy.buffers() if not x.is_floating_point()]
    both = watch_steps(model, lambda *_: (flat(model.average_policy), flat(model.policy)))
    model.learn(96)
    averages, policies = zip(*both, (flat(model.average_policy), flat(model.policy)), strict=True)
    policies = policies[1:]  # each as an update has left it
    assert len(policies) > 5
    for m, (before, after) in enumerate(pairwise(averages), start=1):
        assert not th.equal(before, after), "every update moves it"
        expected = 0.8**m * start + sum(0.2 * 0.8**i * policies[m - 1 - i] for i in range(m))
        n = len(expected) - len(counters)  # which are copied, and come last
        th.testing.assert_close(after[:n], expected[:n], rtol=1e-5, atol=1e-6)
        assert th.equal(after[n:], policies[m - 1][n:])
    assert len(counters) == batch_norm


@BOTH
def test_the_trust_region_is_around_the_average_policy_as_it_is_now(kind):
    distances = []

    class Watched(ACER):
        @property
        def objective(self):
            return replace(super().objective, evaluate=self.watched)

        def watched(self, policy, segments, average_policy):
            now = super().objective.evaluate(policy, segments, average_policy)
            expected = distribution_of(self.average_policy, segments.observations[: len(segments)])
            distances.append((now.average - expected).abs().max().item())
            return now

    model = make(kind, model_class=Watched)
    model.learn(96)
    assert len(distances) > 5 and max(distances) < 1e-6
    assert not model.average_policy.training and not any(p.requires_grad for p in model.average_policy.parameters())


def test_a_policy_that_is_given_brings_its_own_average():
    model, other = make("Discrete").learn(24), make("Discrete", seed=1)
    other.set_parameters({"policy": model.policy.state_dict()}, exact_match=False)
    assert th.equal(flat(other.average_policy), flat(model.policy))
    other.set_parameters(model.get_parameters())
    assert th.equal(flat(other.average_policy), flat(model.average_policy))
    assert not th.equal(flat(model.average_policy), flat(model.policy))
    other.policy = make("Discrete", policy_kwargs=dict(net_arch=[5])).policy
    other.learn(24)
