"""The measured variance of the gradient, against numbers whose variance is known and against the gradient's definition."""

import numpy as np
import pytest
import torch as th

from benchmarks.claims import gradient_variance
from benchmarks.claims.gradient_variance import LEARNED, gradients_of_one_policy, relative_variances

TINY = {"env_id": "CartPole-v1", "timesteps": 500, "seed": 0}


def test_the_variance_is_the_trace_of_the_covariance_relative_to_no_baseline(monkeypatch):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 3))
    gradients = {"None": shared * [1.0, 2.0, 2.0] + 100.0, "loo": shared * [0.0, 0.0, 1.5] - 7.0}
    monkeypatch.setattr(gradient_variance, "gradients_of_one_policy", lambda *arguments: gradients)
    assert relative_variances(**TINY, gradients=3) == {"loo": pytest.approx(2.25 / 9.0, rel=0.1)}


def test_all_gradients_come_from_the_same_policy_and_episodes(monkeypatch):
    """Without a baseline the gradient is −(1/E) Σ G_t ∇log π, computed here from the rollout itself."""
    expected = []
    original = gradient_variance.gradient

    def check(model, collector):
        rollout, result = collector.last_rollout, original(model, collector)
        if getattr(model, "baseline", "") is None:
            policy = collector.policy
            observations = rollout.observations[rollout.valid]
            _, log_prob, _ = policy.evaluate_actions(observations, rollout.actions[rollout.valid].flatten())
            surrogate = -(rollout.returns[rollout.valid] * log_prob).sum() / 16
            if not rollout.truncated[rollout.valid].any():  # then both kinds of return are the rewards as played
                named = {n: p for n, p in policy.named_parameters() if "value" not in n}
                grads = th.autograd.grad(surrogate, list(named.values()), allow_unused=True)
                parts = {n: g for n, g in zip(named, grads, strict=True) if g is not None}
                np.testing.assert_allclose(
                    result, th.cat([parts[n].flatten() for n in sorted(parts)]).numpy(), rtol=1e-3, atol=1e-3
                )
                expected.append(result)
        return result

    monkeypatch.setattr(gradient_variance, "gradient", check)
    gradients = gradients_of_one_policy(**TINY, n_gradients=3)
    assert len(expected) == 3
    assert set(gradients) == {"None", "mean", "loo", "optimal", "optimal_per_parameter", LEARNED}
    assert len({g.shape for g in gradients.values()}) == 1
