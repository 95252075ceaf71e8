"""
Log-probabilities, entropies and KL divergences against torch.distributions, numbers by hand and quadrature, Fisher matrices
against the curvature of these divergences; and how they read SB3's distributions.
"""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.func import hessian

from sb3_pgx.core.distributions import Family, family_of, packed
from sb3_pgx.ops.divergences import (
    entropy_categorical,
    fisher_bernoulli,
    fisher_categorical,
    fisher_gaussian,
    kl_bernoulli,
    kl_categorical,
    kl_gaussian,
    log_prob_categorical,
    log_prob_gaussian,
)

EXACT = dict(rtol=1e-12, atol=1e-12)


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def two_gaussians(rows=7, dimensions=3):
    mean, new_mean = random(0, rows, dimensions), random(1, rows, dimensions)
    std, new_std = random(2, rows, dimensions).exp(), random(3, rows, dimensions).exp()
    return mean, std, new_mean, new_std


def gradients(function, *points):
    leaves = [x.clone().requires_grad_(True) for x in points]
    return th.autograd.grad(function(*leaves).sum(), leaves)


# ------------------------------------------------------------------------------------------------------- log-probability


def test_log_probability_and_entropy_of_a_choice_are_torchs_and_so_are_their_gradients():
    """With choices that are excluded; torch's gradient of an entropy is NaN there if its weight is larger than 1."""
    logits, weights, actions = random(0, 6, 4), random(1, 2, 6).sigmoid(), th.tensor([0, 1, 2, 3, 1, 0])
    logits[2, 0] = logits[4, 3] = -math.inf
    ours, theirs = (logits.clone().requires_grad_(True) for _ in range(2))
    log_p, expected = ours.log_softmax(dim=1), Categorical(logits=theirs)
    results = []
    for x, log_prob, entropy in (
        (ours, log_prob_categorical(log_p, actions), entropy_categorical(log_p)),
        (theirs, expected.log_prob(actions), expected.entropy()),
    ):
        (gradient,) = th.autograd.grad((weights * th.stack([log_prob, entropy])).sum(), x)
        results.append((log_prob, entropy, gradient))
    assert all(x.isfinite().all() for x in results[0])
    th.testing.assert_close(*results, **EXACT)


def test_the_gradient_of_the_entropy_of_a_choice_is_finite_and_linear_in_any_weight():
    logits = random(0, 1, 4)
    logits[0, 1] = -math.inf
    (one,) = gradients(lambda x: entropy_categorical(x.log_softmax(dim=1)), logits)
    (many,) = gradients(lambda x: 1e6 * entropy_categorical(x.log_softmax(dim=1)), logits)
    assert one.isfinite().all() and one.any()
    th.testing.assert_close(many / 1e6, one, **EXACT)


# ------------------------------------------------------------------------------------------------------- Gaussian


def test_gaussian_kl_is_torchs_summed_over_the_dimensions():
    mean, std, new_mean, new_std = two_gaussians()
    expected = kl_divergence(Normal(mean, std), Normal(new_mean, new_std)).sum(dim=1)
    th.testing.assert_close(kl_gaussian(th.cat([mean, std], 1), th.cat([new_mean, new_std], 1)), expected, **EXACT)


def test_gaussian_log_density_is_torchs_summed_over_the_dimensions_for_any_number_of_actions():
    mean, std, *_ = two_gaussians()
    actions = random(4, 5, *mean.shape)
    expected = Normal(mean, std).log_prob(actions).sum(dim=2)
    th.testing.assert_close(log_prob_gaussian(th.cat([mean, std], 1), actions), expected, **EXACT)
    th.testing.assert_close(log_prob_gaussian(th.cat([mean, std], 1), actions[0]), expected[0], **EXACT)


def test_six_equal_dimensions_diverge_six_times_as_far_as_one():
    old, new = th.tensor([[0.0, 1.0]], dtype=th.float64), th.tensor([[0.1, 1.0]], dtype=th.float64)
    six_old, six_new = old.repeat_interleave(6, dim=1), new.repeat_interleave(6, dim=1)
    assert kl_gaussian(old, new).item() == pytest.approx(0.005, abs=1e-12)
    assert kl_gaussian(six_old, six_new).item() == pytest.approx(0.03, abs=1e-12)


def test_gaussian_kl_goes_from_old_to_new():
    """By hand: KL(N(0,1)‖N(1,2)) = ln 2 + (1 + 1)/8 − 1/2; the other way round, −ln 2 + (4 + 1)/2 − 1/2."""
    narrow, wide = th.tensor([[0.0, 1.0]], dtype=th.float64), th.tensor([[1.0, 2.0]], dtype=th.float64)
    assert kl_gaussian(narrow, wide).item() == pytest.approx(math.log(2) - 0.25, abs=1e-12)
    assert kl_gaussian(wide, narrow).item() == pytest.approx(2 - math.log(2), abs=1e-12)


def test_gaussian_kl_is_its_integral():
    """∫ p log(p/q) by Gauss–Hermite quadrature, which is exact for the quadratic log p − log q."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    mean, std, new_mean, new_std = (x[0, 0] for x in two_gaussians())
    x = mean + std * th.from_numpy(nodes)
    integrand = Normal(mean, std).log_prob(x) - Normal(new_mean, new_std).log_prob(x)
    expected = (th.from_numpy(weights) * integrand).sum() / math.sqrt(2 * math.pi)
    result = kl_gaussian(th.stack([mean, std])[None], th.stack([new_mean, new_std])[None])
    th.testing.assert_close(result[0], expected, **EXACT)


@pytest.mark.parametrize("std", [1e-8, 1e8])
def test_very_narrow_and_very_wide_gaussians_keep_a_finite_divergence(std):
    old = th.tensor([[3.0, std]], dtype=th.float64)
    new = th.tensor([[3.0 + std, std]], dtype=th.float64)
    assert kl_gaussian(old, new).item() == pytest.approx(0.5, rel=1e-6)  # one standard deviation apart
    assert kl_gaussian(old, old).item() == 0.0


# ------------------------------------------------------------------------------------------------------- choices


def test_categorical_kl_is_torchs_for_raw_and_for_normalised_logits():
    old, new = random(0, 7, 4), random(1, 7, 4)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new))
    th.testing.assert_close(kl_categorical(old, new), expected, **EXACT)
    th.testing.assert_close(kl_categorical(old.log_softmax(1) + 5.0, new - 3.0), expected, **EXACT)


def test_categorical_kl_goes_from_old_to_new():
    """By hand: ½ ln(½ / ¼) + ½ ln(½ / ¾) = ln 2 − ½ ln 3; the other way round, ¾ ln 3 − ln 2."""
    fair, loaded = th.tensor([[0.5, 0.5]], dtype=th.float64).log(), th.tensor([[0.25, 0.75]], dtype=th.float64).log()
    assert kl_categorical(fair, loaded).item() == pytest.approx(math.log(2) - 0.5 * math.log(3), abs=1e-12)
    assert kl_categorical(loaded, fair).item() == pytest.approx(0.75 * math.log(3) - math.log(2), abs=1e-12)


def test_independent_choices_of_different_sizes_add_up_to_the_kl_of_the_joint_choice():
    sizes = [2, 3, 4]
    old, new = random(0, 5, 9), random(1, 5, 9)

    def joint(logits):
        """log-probabilities of all 24 combinations, by enumeration."""
        a, b, c = (part.log_softmax(1) for part in logits.split(sizes, dim=1))
        return (a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]).flatten(1)

    expected = (joint(old).exp() * (joint(old) - joint(new))).sum(dim=1)
    th.testing.assert_close(kl_categorical(old, new, sizes), expected, **EXACT)


def test_independent_yes_or_no_choices_add_up_to_torchs_sum():
    old, new = random(0, 5, 3), random(1, 5, 3)
    expected = kl_divergence(Bernoulli(logits=old), Bernoulli(logits=new)).sum(dim=1)
    th.testing.assert_close(kl_bernoulli(old, new), expected, **EXACT)


def test_bernoulli_kl_is_that_of_a_choice_of_two_and_goes_from_old_to_new():
    old, new = random(0, 5, 1), random(1, 5, 1) + 1.0
    as_choice = [th.cat([th.zeros_like(x), x], dim=1) for x in (old, new)]
    th.testing.assert_close(kl_bernoulli(old, new), kl_categorical(*as_choice), **EXACT)
    quarter, half = th.tensor([[-math.log(3)]], dtype=th.float64), th.zeros(1, 1, dtype=th.float64)
    assert kl_bernoulli(half, quarter).item() == pytest.approx(math.log(2) - 0.5 * math.log(3), abs=1e-12)


def test_a_choice_that_both_policies_exclude_contributes_nothing():
    old = th.tensor([[0.0, math.log(3), -math.inf]], dtype=th.float64)
    new = th.tensor([[math.log(3), 0.0, -math.inf]], dtype=th.float64)
    assert kl_categorical(old, new).item() == pytest.approx(0.25 * math.log(1 / 3) + 0.75 * math.log(3), abs=1e-12)


def test_a_choice_that_only_the_old_policy_excludes_costs_what_the_others_lose():
    """p = (½, ½, 0), q = (¼, ¼, ½): KL = ln 2."""
    old = th.tensor([[0.0, 0.0, -math.inf]], dtype=th.float64)
    new = th.tensor([[0.25, 0.25, 0.5]], dtype=th.float64).log()
    assert kl_categorical(old, new).item() == pytest.approx(math.log(2), abs=1e-12)


def test_a_choice_that_only_the_new_policy_excludes_is_infinitely_far():
    old, new = th.zeros(1, 2, dtype=th.float64), th.tensor([[0.0, -math.inf]], dtype=th.float64)
    assert kl_categorical(old, new).item() == math.inf


@pytest.mark.parametrize("excluded_by_both", [False, True])
def test_the_gradient_is_finite_where_the_old_policy_excludes_a_choice(excluded_by_both):
    """∂KL/∂logit_a of the new one is q(a) − p(a)."""
    old, new = th.tensor([[0.0, math.log(3), -math.inf]], dtype=th.float64), random(0, 1, 3)
    if excluded_by_both:
        new[0, 2] = -math.inf
    (gradient,) = gradients(lambda x: kl_categorical(old, x), new)
    th.testing.assert_close(gradient, new.softmax(1) - th.tensor([[0.25, 0.75, 0.0]], dtype=th.float64), **EXACT)


def test_a_yes_that_the_old_policy_excludes_costs_what_the_no_loses():
    """p = 0, q = ½: KL = ln 2; p = q = 0: nothing."""
    never, always, half = (th.full((1, 1), x, dtype=th.float64) for x in (-math.inf, math.inf, 0.0))
    for old in (never, always):
        assert kl_bernoulli(old, half).item() == pytest.approx(math.log(2), abs=1e-12)
        assert kl_bernoulli(old, old).item() == 0.0


@pytest.mark.parametrize("size", [50.0, 1000.0])
def test_extreme_logits_keep_a_finite_divergence_and_gradient(size):
    """p is sure of one choice, q of the other: the divergence is the difference of q's logits."""
    sure, other = th.tensor([[size, -size]], dtype=th.float64), th.tensor([[-size, size]], dtype=th.float64)
    assert kl_categorical(sure, other).item() == pytest.approx(2 * size, rel=1e-12)
    assert kl_bernoulli(sure, other).item() == pytest.approx(2 * size, rel=1e-12)  # size for each of the two
    for kl in (kl_categorical, kl_bernoulli):
        assert kl(sure, sure).item() == 0.0
        assert all(th.isfinite(g).all() for g in gradients(kl, sure, other))


# ------------------------------------------------------------------------------------------------------- Fisher matrices


def packed_gaussian():
    mean, std, _, _ = two_gaussians(rows=3)
    return th.cat([mean, std], dim=1)


SIZES = [2, 3]
METRICS = {
    "categorical": (kl_categorical, fisher_categorical, random(0, 3, 4)),
    "choices": (lambda p, q: kl_categorical(p, q, SIZES), lambda x, t: fisher_categorical(x, t, SIZES), random(0, 3, 5)),
    "bernoulli": (kl_bernoulli, fisher_bernoulli, random(0, 3, 4)),
    "gaussian": (kl_gaussian, fisher_gaussian, packed_gaussian()),
}


@pytest.mark.parametrize("direction", ["old to new", "new to old"])
@pytest.mark.parametrize("case", METRICS)
def test_the_fisher_matrix_of_every_row_is_the_hessian_of_the_kl_in_either_direction(case, direction):
    kl, fisher, parameters = METRICS[case]

    def divergence(new, old):
        return (kl(old[None], new[None]) if direction == "old to new" else kl(new[None], old[None]))[0]

    expected = th.stack([hessian(divergence)(row, row) for row in parameters])
    columns = [fisher(parameters, unit.expand_as(parameters)) for unit in th.eye(parameters.shape[1]).double()]
    th.testing.assert_close(th.stack(columns, dim=2), expected, **EXACT)


@pytest.mark.parametrize("tangent", [0.0, 3.0, math.inf, math.nan])
def test_an_excluded_choice_has_no_curvature_and_leaves_that_of_the_others_whatever_its_tangent(tangent):
    logits, tangents = random(0, 3, 3), random(1, 3, 3)
    others, nothing = fisher_categorical(logits, tangents), th.zeros(3, 1, dtype=th.float64)
    result = fisher_categorical(th.cat([logits, nothing - math.inf], dim=1), th.cat([tangents, nothing + tangent], dim=1))
    th.testing.assert_close(result, th.cat([others, nothing], dim=1), **EXACT)
    for excluded in (-math.inf, math.inf):  # a certain no, a certain yes
        assert fisher_bernoulli(nothing + excluded, nothing + tangent).tolist() == nothing.tolist()


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_a_yes_that_is_nearly_sure_keeps_its_curvature_in_float32(logit):
    assert fisher_bernoulli(th.tensor([[logit]]), th.ones(1, 1)).item() == pytest.approx(math.exp(-30), rel=1e-5, abs=0)


# ------------------------------------------------------------------------------------------------------- SB3's distributions


def categorical(seed):
    return CategoricalDistribution(4).proba_distribution(random(seed, 5, 4))


def multi_categorical(seed):
    return MultiCategoricalDistribution([2, 3]).proba_distribution(random(seed, 5, 5))


def bernoulli(seed):
    return BernoulliDistribution(3).proba_distribution(random(seed, 5, 3))


def gaussian(seed, kind=DiagGaussianDistribution):
    return kind(2).proba_distribution(random(seed, 5, 2), random(seed + 10, 2))


def state_dependent(seed, squash=False):
    distribution = StateDependentNoiseDistribution(2, squash_output=squash)
    _, log_std = distribution.proba_distribution_net(3, 3)
    latent = random(seed + 20, 5, 3)
    return distribution.proba_distribution(random(seed, 5, 2), log_std.detach().double() + random(seed + 10, 3, 2), latent)


CASES = {
    "Categorical": (categorical, Family("categorical")),
    "MultiCategorical": (multi_categorical, Family("categorical", (2, 3))),
    "Bernoulli": (bernoulli, Family("bernoulli")),
    "DiagGaussian": (gaussian, Family("gaussian")),
    "SquashedDiagGaussian": (lambda seed: gaussian(seed, SquashedDiagGaussianDistribution), Family("gaussian")),
    "gSDE": (state_dependent, Family("gaussian")),
    "squashed gSDE": (lambda seed: state_dependent(seed, squash=True), Family("gaussian")),
}


def by_torch(old, new):
    """KL(old‖new) of what SB3's distributions wrap, summed over the action's dimensions."""
    if isinstance(old.distribution, list):
        return sum(kl_divergence(p, q) for p, q in zip(old.distribution, new.distribution, strict=True))
    kl = kl_divergence(old.distribution, new.distribution)
    return kl if kl.dim() == 1 else kl.sum(dim=1)


@pytest.mark.parametrize("case", CASES)
def test_every_distribution_of_sb3_is_packed_for_its_family_and_diverges_as_torch_says(case):
    make, family = CASES[case]
    old, new = make(0), make(1)
    assert family_of(old) == family
    assert packed(old).shape[0] == 5 and packed(old).dtype == th.float64
    th.testing.assert_close(family.kl(packed(old), packed(new)), by_torch(old, new), **EXACT)
    assert (family.kl(packed(old), packed(new)) > 1e-3).all()
    assert family.kl(packed(old), packed(old)).abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_packed_parameters_carry_the_gradient(case):
    """PPOPenalty differentiates through them: parameters that were detached would penalise nothing."""
    make, family = CASES[case]
    old, new = make(0), make(1)
    scales = th.ones(2, dtype=th.float64, requires_grad=True)
    inner = new.distribution
    if isinstance(inner, Normal):
        new.distribution = Normal(inner.mean * scales[0], inner.stddev * scales[1])
    elif isinstance(inner, list):
        new.distribution = [Categorical(logits=part.logits * scale) for part, scale in zip(inner, scales, strict=True)]
    else:
        new.distribution = type(inner)(logits=inner.logits * scales.prod())
    (gradient,) = th.autograd.grad(family.kl(packed(old), packed(new)).sum(), scales)
    assert (gradient.abs() > 1e-3).all()


def test_a_squashed_gaussian_is_as_far_from_another_as_the_one_beneath():
    """∫ p(a) log(p(a)/q(a)) da over (−1, 1), with SB3's own densities of the squashed actions, by the midpoint rule."""

    def one(mean, log_std):
        distribution = StateDependentNoiseDistribution(1, squash_output=True)
        distribution.proba_distribution_net(1, 1)
        distribution.bijector.epsilon = 0.0  # added under SB3's logarithm, for numbers of float32
        return distribution.proba_distribution(*th.tensor([mean, log_std, 1.0], dtype=th.float64).view(3, 1, 1).unbind())

    old, new = one(0.3, -0.7), one(-0.1, -0.3)
    n = 200_000
    actions = ((2 * th.arange(n, dtype=th.float64) + 1) / n - 1)[:, None]
    log_p, log_q = old.log_prob(actions), new.log_prob(actions)
    assert log_p.exp().mean().item() * 2 == pytest.approx(1.0, abs=1e-6)
    by_quadrature = (log_p.exp() * (log_p - log_q)).mean() * 2
    result = family_of(old).kl(packed(old), packed(new))
    assert result.item() == pytest.approx(by_quadrature.item(), abs=1e-6)
    assert result.item() > 0.05


def test_the_spread_of_gsde_is_that_of_the_states_latent_features():
    """σ² = z² · exp(log σ)² + ε for each state (Raffin et al., 2021): the packed deviation differs from state to state."""
    distribution = StateDependentNoiseDistribution(2)
    distribution.proba_distribution_net(3, 3)
    latent, log_std = random(0, 5, 3), random(1, 3, 2)
    distribution.proba_distribution(random(2, 5, 2), log_std, latent)
    variance = th.einsum("bi,ij->bj", latent**2, log_std.exp() ** 2) + distribution.epsilon
    th.testing.assert_close(packed(distribution)[:, 2:], variance.sqrt(), **EXACT)


def test_a_distribution_of_another_kind_is_refused_by_name():
    own = type("Own", (Distribution,), {name: None for name in Distribution.__abstractmethods__})
    with pytest.raises(ValueError, match="Own is no distribution"):
        family_of(own())
