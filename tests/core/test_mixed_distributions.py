"""The distribution of mixed actions (``Dict`` and ``Tuple`` spaces) by enumeration and quadrature."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)

from sb3_pgx.core.distributions import family_of, packed
from sb3_pgx.core.product import Product

PARTS = {
    "first": spaces.Box(-1, 1, (1,), np.float32),
    "choice": spaces.Discrete(3),
    "second": spaces.Box(-1, 1, (1,), np.float32),
    "switches": spaces.MultiBinary(2),
    "choices": spaces.MultiDiscrete([2, 3]),
}
SPACE = spaces.Dict(list(PARTS.items()))  # a list keeps the order
N_OUTPUTS, WIDTH, STEPS = 1 + 3 + 1 + 2 + 5, 8.0, 41  # of the network; of the grid, in standard deviations, and its points


def given_parameters(seed):
    """Return the outputs of a network for one state and log σ of the two numbers."""
    generator = th.Generator().manual_seed(seed)
    outputs = th.randn(1, N_OUTPUTS, generator=generator, dtype=th.float64)
    return outputs, 0.3 * th.randn(2, generator=generator, dtype=th.float64)


def product(outputs, log_std):
    return Product(SPACE).proba_distribution(outputs, log_std)


def every_action(outputs, log_std):
    """Return all choices with a grid of numbers for each, ``[B, 7]``, and the area of a grid's cell."""
    means, stds = outputs[0, [0, 4]], log_std.exp()
    grid = th.linspace(-WIDTH, WIDTH, STEPS, dtype=th.float64)
    first, second = (mean + std * grid for mean, std in zip(means, stds, strict=True))
    columns = [first, range(3), second, range(2), range(2), range(2), range(3)]
    actions = th.cartesian_prod(*(th.as_tensor(list(x), dtype=th.float64) for x in columns))
    return actions, float(stds.prod()) * (grid[1] - grid[0]).item() ** 2


def log_prob(outputs, log_std, actions):
    return product(outputs.expand(len(actions), -1), log_std).log_prob(actions)


def test_the_density_is_that_of_the_parts_and_its_integral_over_all_actions_is_1():
    outputs, log_std = given_parameters(0)
    actions, area = every_action(outputs, log_std)
    density = log_prob(outputs, log_std, actions).exp()
    assert density.sum().item() * area == pytest.approx(1, abs=1e-12)
    of_choice = [density[actions[:, 1] == k].sum().item() * area for k in range(3)]
    assert of_choice == pytest.approx(outputs[0, 1:4].softmax(dim=0).tolist(), abs=1e-12)
    of_switch = density[actions[:, 4] == 1].sum().item() * area
    assert of_switch == pytest.approx(outputs[0, 6].sigmoid().item(), abs=1e-12)


def test_entropy_and_divergence_are_the_sums_over_all_actions():
    (outputs, log_std), (others, other_log_std) = given_parameters(0), given_parameters(1)
    p, q = product(outputs, log_std), product(others, other_log_std)
    actions, area = every_action(outputs, log_std)
    log_p, log_q = log_prob(outputs, log_std, actions), log_prob(others, other_log_std, actions)
    weights = log_p.exp() * area
    assert p.entropy().item() == pytest.approx(-(weights * log_p).sum().item(), abs=1e-10)
    kl = family_of(p).kl(packed(p), packed(q)).item()
    assert kl > 0.5
    assert kl == pytest.approx((weights * (log_p - log_q)).sum().item(), abs=1e-10)


def test_the_fisher_matrix_is_the_hessian_of_the_divergence():
    p = product(*given_parameters(0))
    family, parameters = family_of(p), packed(p)
    n = parameters.shape[1]
    assert n == N_OUTPUTS + 2, "means and standard deviations, and logits"
    hessian = th.autograd.functional.hessian(lambda new: family.kl(parameters, new[None]).sum(), parameters[0])
    matrix = family.fisher(parameters.expand(n, -1), th.eye(n, dtype=th.float64))
    th.testing.assert_close(matrix, hessian, rtol=1e-9, atol=1e-12)
    assert (matrix.diagonal() > 0).all()


def test_samples_are_those_of_sb3s_distributions_drawn_one_after_another():
    generator = th.Generator().manual_seed(0)
    outputs, log_std = 2 * th.randn(50, N_OUTPUTS, generator=generator), th.randn(2, generator=generator)
    ours = Product(SPACE).proba_distribution(outputs, log_std)
    theirs = [
        DiagGaussianDistribution(1).proba_distribution(outputs[:, :1], log_std[:1]),
        CategoricalDistribution(3).proba_distribution(outputs[:, 1:4]),
        DiagGaussianDistribution(1).proba_distribution(outputs[:, 4:5], log_std[1:]),
        BernoulliDistribution(2).proba_distribution(outputs[:, 5:7]),
        MultiCategoricalDistribution([2, 3]).proba_distribution(outputs[:, 7:]),
    ]
    for deterministic in (False, True):
        th.manual_seed(1)
        actions = ours.get_actions(deterministic)
        th.manual_seed(1)
        expected = [part.get_actions(deterministic).float().reshape(50, -1) for part in theirs]
        assert actions.dtype == th.float32 and th.equal(actions, th.cat(expected, dim=1))
        th.manual_seed(1)
        assert th.equal(Product(SPACE).actions_from_params(outputs, log_std, deterministic), actions)
    th.manual_seed(2)
    again, log_probs = Product(SPACE).log_prob_from_params(outputs, log_std)
    assert th.equal(log_probs, ours.log_prob(again))
