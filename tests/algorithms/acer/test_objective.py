"""
What ACER descends on, row by row from the paper in float64: returns as sums, gradients in the statistics by automatic
differentiation of log-probabilities and of the divergence, and one backward pass through the policy a row.
"""

import pytest
import torch as th
from support.acer_segments import (
    EXACT,
    N_DUELING,
    coefficients,
    gradient,
    measured,
    parameters_of,
    returns,
    segments,
    shifted,
    small_model,
)
from torch.distributions import Normal, kl_divergence

pytestmark = pytest.mark.usefixtures("on_the_tests_device")


def projected(g, k, c):
    """The trust region's step; that it is the quadratic programme's solution is tested where it is defined."""
    excess = (k @ g - c.trust_region_delta).item()
    return g - excess / (k @ k) * k if c.trust_region and excess > 0 else g


def in_statistics(row_terms, divergence, phi, c):
    """∇φ of the terms of a row and of KL(average‖policy), and the step that the trust region leaves."""
    leaf = phi.detach().clone().requires_grad_(True)
    (g,) = th.autograd.grad(row_terms(leaf), leaf)
    (k,) = th.autograd.grad(divergence(leaf), leaf)
    return projected(g, k, c)


def discrete_reference(model, batch, c):
    """The loss's gradient."""
    rows = len(batch)
    distribution, latent = model.policy.distribution_and_latent(batch.observations)
    torch_distribution, q = distribution.distribution, model.policy.value_net(latent)
    p, mu = torch_distribution.probs.detach(), batch.behaviour.softmax(dim=1)
    averages = parameters_of(model.average_policy, batch.observations[:rows])
    v = (p * q.detach()).sum(dim=1)
    actions = batch.actions.flatten()
    index = th.arange(rows)
    ratio = p[index, actions] / mu[index, actions]
    targets = returns(model, batch, v[:rows], v[rows:], q[index, actions], ratio.clamp(max=1.0))
    total = 0.0
    for i, a in enumerate(actions.tolist()):
        ours = p[i] / mu[i]
        weight = min(c.importance_clip, ours[a].item()) * (targets[i] - v[i])
        corrections = p[i] * (1 - c.importance_clip / ours).clamp(min=0) * (q[i].detach() - v[i])
        average = averages[i].softmax(dim=0)

        def log_f(phi):
            return phi.log_softmax(dim=0) if c.in_logits else phi.log()

        def terms(phi, a=a, weight=weight, corrections=corrections):
            return weight * log_f(phi)[a] + (corrections * log_f(phi)).sum()

        def divergence(phi, average=average):
            return (average * (average.log() - log_f(phi))).sum()

        phi = (torch_distribution.logits if c.in_logits else torch_distribution.probs)[i]
        z = in_statistics(terms, divergence, phi, c)
        total = total - z @ phi + c.q_coef * 0.5 * (targets[i] - q[i, a]) ** 2 - c.ent_coef * torch_distribution.entropy()[i]
    return gradient(model, total / rows)


def box_reference(model, batch, c):
    """The same for Box."""
    rows, policy = len(batch), model.policy
    distribution, latent = policy.distribution_and_latent(batch.observations)
    now, v_with_grad = distribution.distribution, policy.value_net(latent).flatten()
    v, averages = v_with_grad.detach(), parameters_of(model.average_policy, batch.observations[:rows])
    mean, std, behaviour = now.mean[:rows], now.stddev[:rows], Normal(*batch.behaviour.chunk(2, dim=1))
    drawn, *samples = (mean + std * batch.noise).detach()
    taken = batch.actions.double()

    def q_of(actions, of_samples):
        """Every action has samples of its own to compare with; the environment is given none beyond the bounds."""
        executed = (th.maximum(th.minimum(a, batch.bounds[1]), batch.bounds[0]) for a in (actions, *of_samples))
        advantage, *others = (policy.advantage_net(latent[:rows], a[None])[0] for a in executed)
        return v_with_grad[:rows] + advantage - sum(others) / len(others)

    def ratio_of(actions):
        now = Normal(mean.detach(), std.detach())
        return (now.log_prob(actions) - behaviour.log_prob(actions)).sum(dim=1).exp()

    q, resampled_q = q_of(taken, samples[:N_DUELING]), q_of(drawn, samples[N_DUELING:]).detach()
    ratio, resampled_ratio = ratio_of(taken), ratio_of(drawn)
    retraced = returns(model, batch, v[:rows], v[rows:], q, ratio.sqrt().clamp(max=1.0))  # ρ^(1/d) with d = 2
    corrected = returns(model, batch, v[:rows], v[rows:], q, th.ones_like(ratio))
    total = 0.0
    for i in range(rows):
        average = Normal(*averages[i].chunk(2))
        weights = (
            min(c.importance_clip, ratio[i].item()) * (corrected[i] - v[i]),
            max(0.0, 1 - c.importance_clip / resampled_ratio[i].item()) * (resampled_q[i] - v[i]),
        )
        fixed = std[i].detach()

        def gaussian(phi, fixed=fixed):
            return Normal(phi[:2], phi[2:].exp()) if c.with_std else Normal(phi, fixed)

        def terms(phi, i=i, weights=weights, gaussian=gaussian):
            f = gaussian(phi)
            return sum(w * f.log_prob(a[i]).sum() for w, a in zip(weights, (taken, drawn), strict=True))

        def divergence(phi, average=average, gaussian=gaussian):
            return kl_divergence(average, gaussian(phi)).sum()

        phi = th.cat([mean[i], std[i].log()]) if c.with_std else mean[i]
        z = in_statistics(terms, divergence, phi, c)
        surprise = (retraced[i] - q[i]).detach()
        critic = 0.5 * (retraced[i] - q[i]) ** 2 - min(1.0, ratio[i].item()) * surprise * v_with_grad[i]
        entropy = now.entropy()[i].sum()
        total = total - z @ phi + c.q_coef * critic - c.ent_coef * entropy
    return gradient(model, total / rows)


REGIONS = {"no region": {}, "tight": dict(trust_region=True, trust_region_delta=0.05), "δ = 1": dict(trust_region=True)}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("in_logits", [False, True], ids=["probabilities", "logits"])
def test_a_discrete_step_is_the_papers_row_by_row(in_logits, region):
    model = small_model("Discrete")
    batch = segments(model, shifted(model.policy, 10), shifted(model.policy, 50))
    c = coefficients(in_logits=in_logits, q_coef=0.5, ent_coef=0.1, **REGIONS[region])
    now = measured(model, batch, c)
    assert 0 < now["truncated_fraction"] < 1, "some weights are to be truncated, others not"
    assert region == "no region" or in_logits or 0 < now["trust_region_fraction"] < 1
    th.testing.assert_close(gradient(model, now["loss"]), discrete_reference(model, batch, c), **EXACT)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("learn_std", [False, True], ids=["mean", "mean and log std"])
def test_a_box_step_is_the_papers_row_by_row(learn_std, region):
    model = small_model("Box", learn_std=learn_std)
    batch = segments(model, shifted(model.policy, 10, 0.3), shifted(model.policy, 50, 0.3))
    c = coefficients(with_std=model.policy.learns_std, q_coef=0.5, ent_coef=0.1, **REGIONS[region])
    assert c.with_std == learn_std
    now = measured(model, batch, c)
    assert 0 < now["truncated_fraction"] < 1, "some weights are to be truncated, others not"
    assert region == "no region" or 0 < now["trust_region_fraction"] < 1
    low, high = batch.bounds
    assert all(0 < x.float().mean() < 1 for x in (batch.actions < low, batch.actions > high)), "some are to be clipped"
    th.testing.assert_close(gradient(model, now["loss"]), box_reference(model, batch, c), **EXACT)


def test_one_on_policy_step_is_that_of_advantage_actor_critic_with_a_q():
    """ρ = 1 truncates and corrects nothing: ∇log π (G − V) and ½ (G − Q)², G the returns of the segment."""
    model = small_model("Discrete")
    batch = segments(model)
    rows = len(batch)
    observations, actions = batch.observations[:rows], batch.actions.flatten()
    values, log_prob, entropy = model.policy.evaluate_actions(observations, actions)
    with th.no_grad():
        last = model.policy.predict_values(batch.observations[rows:]).flatten()
    q = model.policy.value_net(model.policy.mlp_extractor(model.policy.extract_features(observations))[1])
    q = q[th.arange(rows), actions]
    one = th.ones(rows, dtype=th.float64)
    G = returns(model, batch, values, last, q, one)
    loss = -(log_prob * (G - values.detach().flatten())) + 0.25 * (G - q) ** 2 - 0.01 * entropy
    c = coefficients(importance_clip=10.0, q_coef=0.5, ent_coef=0.01)
    now = measured(model, batch, c)
    assert now["ratio"].item() == pytest.approx(1.0) and now["truncated_fraction"] == 0
    th.testing.assert_close(gradient(model, now["loss"]), gradient(model, loss.mean()), **EXACT)
