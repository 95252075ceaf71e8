"""The measured variance of the gradient, against numbers whose variance is known and against the gradient's definition."""

import numpy as np
import pytest
import torch as th

from benchmarks.claims.gradient_variance import (
    LEARNED,
    gradient,
    gradients_of_one_policy,
    rollouts_of_one_policy,
    variances_of,
)

TINY = {"env_id": "CartPole-v1", "timesteps": 500, "seed": 0}


def test_the_variance_is_the_trace_of_the_covariance_relative_to_no_baseline():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 3))
    gradients = {"None": shared * [1.0, 2.0, 2.0] + 100.0, "loo": shared * [0.0, 0.0, 1.5] - 7.0}
    assert variances_of(gradients) == {"loo": pytest.approx(2.25 / 9.0, rel=0.1)}


def test_all_gradients_come_from_the_same_policy_and_episodes():
    """Without a baseline the gradient is −(1/E) Σ G_t ∇log π, computed here from the rollout itself."""
    expected = []
    for plain, collector in rollouts_of_one_policy(**TINY, n=3):
        plain.baseline, rollout, policy = None, collector.last_rollout, collector.policy
        observations = rollout.observations[rollout.valid]
        _, log_prob, _ = policy.evaluate_actions(observations, rollout.actions[rollout.valid].flatten())
        surrogate = -(rollout.returns[rollout.valid] * log_prob).sum() / 16
        assert not rollout.truncated[rollout.valid].any(), "both kinds of return are the rewards as played"
        named = {n: p for n, p in policy.named_parameters() if "value" not in n}
        grads = th.autograd.grad(surrogate, list(named.values()), allow_unused=True)
        parts = {n: g for n, g in zip(named, grads, strict=True) if g is not None}
        expected.append(th.cat([parts[n].flatten() for n in sorted(parts)]).numpy())
        np.testing.assert_allclose(gradient(plain, collector), expected[-1], rtol=1e-3, atol=1e-3)
    gradients = gradients_of_one_policy(**TINY, n_gradients=3)
    np.testing.assert_allclose(gradients["None"], expected, rtol=1e-3, atol=1e-3)
    assert set(gradients) == {"None", "mean", "loo", "optimal", "optimal_per_parameter", LEARNED}
    assert len({g.shape for g in gradients.values()}) == 1
