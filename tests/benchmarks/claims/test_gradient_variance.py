"""The measured variance of the gradient, against numbers whose variance is known and against the gradient's definition."""

import numpy as np
import pytest
import torch as th

from benchmarks.claims import gradient_variance
from benchmarks.claims.gradient_variance import LEARNED, GradientVarianceClaim, gradients_of_one_policy, relative_variances
from benchmarks.claims.verdict import Settings

TINY = GradientVarianceClaim(timesteps=500, batches=3, seeds=(0,))


def test_the_variance_is_the_trace_of_the_covariance_relative_to_no_baseline(monkeypatch):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 3))
    gradients = {"None": shared * [1.0, 2.0, 2.0] + 100.0, "loo": shared * [0.0, 0.0, 1.5] - 7.0}
    monkeypatch.setattr(gradient_variance, "gradients_of_one_policy", lambda claim, seed: gradients)
    assert relative_variances(TINY, 0) == {"loo": pytest.approx(2.25 / 9.0, rel=0.1)}


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
    gradients = gradients_of_one_policy(TINY, 0)
    assert len(expected) == 3
    assert set(gradients) == {"None", "mean", "loo", "optimal", "optimal_per_parameter", LEARNED}
    assert len({g.shape for g in gradients.values()}) == 1


@pytest.mark.parametrize("ratio, passed", [(0.4, True), (1.1, False)])
def test_a_baseline_that_does_not_lower_the_variance_fails_the_claim(monkeypatch, ratio, passed):
    class Inline:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        map = staticmethod(map)

    monkeypatch.setattr(gradient_variance, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(gradient_variance, "relative_variances", lambda claim, seed: {"loo": ratio, "mean": 0.3})
    verdict = GradientVarianceClaim()(Settings(command="python -m benchmarks.claims reinforce"))
    assert verdict.passed is passed
    assert verdict.record["variance_relative_to_no_baseline"]["loo"]["per_seed"] == [ratio] * 5
