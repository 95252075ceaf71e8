"""The average policy that ACER's trust region is around."""

import copy
from itertools import pairwise

import pytest
import torch as th
from replaying import BOTH, Normalising, distribution_of, flat, make, watch
from torch import nn

from sb3_pgx.acer.average import follow
from sb3_pgx.common.modules import Modules


@BOTH
@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "buffers"])
def test_the_average_policy_is_the_exponentially_weighted_sum_of_all_policies(kind, batch_norm):
    model = make(kind, average_coef=0.8, policy_kwargs=dict(features_extractor_class=Normalising) if batch_norm else {})
    start = flat(model.policy)
    assert th.equal(flat(model.average_policy), start)
    counters = [x for x in model.policy.buffers() if not x.is_floating_point()]
    both = watch(model, "_learn_from", lambda *_: (flat(model.average_policy), flat(model.policy)))
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
    model = make(kind)

    def distance(segments, c):
        expected = distribution_of(model.average_policy, segments.observations[: len(segments)])
        return (segments.average - expected).abs().max().item()

    distances = watch(model, "_learn_from", distance)
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


def test_what_two_layers_share_moves_once():
    layers = nn.ModuleList([nn.BatchNorm1d(1), nn.BatchNorm1d(1)])
    layers[1].weight, layers[1].running_mean = layers[0].weight, layers[0].running_mean
    average = copy.deepcopy(layers)
    for values in (layers[0].weight.data, layers[0].running_mean):
        values += 10.0
    both = Modules(), Modules()
    for modules, layers_of_it in zip(both, (average, layers), strict=True):
        modules.look(layers_of_it)
    follow(*both, coef=0.9)
    assert (average[0].weight.item(), average[1].running_mean.item()) == pytest.approx((2.0, 1.0))
