"""Masked distributions: invalid actions have the probability 0, and valid ones the renormalised probabilities."""

import itertools

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.distributions import make_proba_distribution
from support.masked_environments import MASKED_SPACES
from support.small_environments import DEVICE

from sb3_pgx.core.action_masks import first_options, mask_parts, mask_size, masked, without_option
from sb3_pgx.core.distributions import family_of, noise_source, packed, sample_with
from sb3_pgx.core.product import Product

SPACES = pytest.mark.parametrize("space", MASKED_SPACES.values(), ids=MASKED_SPACES)
EXACT = dict(rtol=1e-12, atol=1e-12)
ROWS = 6


def some_masks(space, rows=ROWS, seed=0):
    """Return masks that leave every choice an option; the first rows leave exactly one, and all."""
    generator, masks = np.random.default_rng(seed), []
    for row in range(rows):
        parts = []
        for n in mask_parts(space):
            part = generator.random(n) < (0.0 if row == 0 else 1.0 if row == 1 else 0.5)
            part[generator.integers(n)] = True
            parts.append(part)
        masks.append(np.concatenate(parts))
    return th.from_numpy(np.stack(masks)).to(DEVICE)


def some_logits(space, rows=ROWS, seed=1):
    n = space.n if isinstance(space, spaces.MultiBinary) else mask_size(space)  # one logit per switch
    generator = th.Generator(device=DEVICE).manual_seed(seed)
    return 2 * th.randn(rows, int(n), generator=generator, dtype=th.float64, device=DEVICE)


def distribution(space, logits, masks):
    return masked(make_proba_distribution(space), masks).proba_distribution(logits)


def every_action(space):
    return [th.tensor(action, device=DEVICE) for action in itertools.product(*map(range, mask_parts(space)))]


def enumerated(space, logits, masks):
    """Return p(a) of every action: the unmasked probabilities of its options, set to 0 where invalid, and renormalised."""
    if isinstance(space, spaces.MultiBinary):
        options = th.stack([th.zeros_like(logits), logits], dim=2).flatten(1)  # off and on of each switch
    else:
        options = logits
    weights = [
        w * m for w, m in zip(options.exp().split(mask_parts(space), 1), masks.split(mask_parts(space), 1), strict=True)
    ]
    shares = [w / w.sum(dim=1, keepdim=True) for w in weights]
    products = [th.stack([s[:, a] for s, a in zip(shares, action, strict=True)]).prod(dim=0) for action in every_action(space)]
    return th.stack(products, dim=1)  # [B, number of actions]


def log_probs(space, made):
    """Return log p of every action by the distribution's own method, ``[B, number of actions]``."""
    shape = () if isinstance(space, spaces.Discrete) else (-1,)
    actions = [a.reshape(shape).expand(ROWS, *a.reshape(shape).shape) for a in every_action(space)]
    return th.stack([made.log_prob(a.double() if a.dim() == 2 else a) for a in actions], dim=1)


@SPACES
def test_probabilities_are_those_of_the_valid_actions_renormalised(space):
    logits, masks = some_logits(space), some_masks(space)
    made = distribution(space, logits, masks)
    th.testing.assert_close(log_probs(space, made).exp(), enumerated(space, logits, masks), **EXACT)


@SPACES
def test_the_entropy_is_that_of_the_valid_actions(space):
    logits, masks = some_logits(space), some_masks(space)
    p = enumerated(space, logits, masks)
    expected = -th.special.xlogy(p, p).sum(dim=1)
    th.testing.assert_close(distribution(space, logits, masks).entropy(), expected, **EXACT)


@SPACES
def test_the_divergence_is_that_of_the_valid_actions(space):
    masks = some_masks(space)
    old, new = (some_logits(space, seed=seed) for seed in (1, 2))
    p, q = (enumerated(space, logits, masks) for logits in (old, new))
    expected = th.where(p > 0, p * (p.log() - q.log()), 0.0).sum(dim=1)
    kept = [packed(distribution(space, logits, masks)).clone() for logits in (old, new)]
    th.testing.assert_close(family_of(make_proba_distribution(space)).kl(*kept), expected, **EXACT)


@SPACES
def test_the_fisher_matrix_is_the_hessian_of_the_enumerated_divergence(space):
    masks, logits = some_masks(space), some_logits(space)
    family = family_of(make_proba_distribution(space))

    def divergence(new):
        p, q = (enumerated(space, x, masks)[2] for x in (logits, new.expand_as(logits)))
        return th.where(p > 0, p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()), 0.0).sum()

    hessian = th.autograd.functional.hessian(divergence, logits[2])
    columns = []

    def outputs(x):
        return packed(distribution(space, x, masks))

    for unit in th.eye(logits.shape[1], dtype=logits.dtype, device=DEVICE):
        made, tangents = th.func.jvp(outputs, (logits,), (unit.expand_as(logits).contiguous(),))
        (column,) = th.func.vjp(outputs, logits)[1](family.fisher(made, tangents))
        columns.append(column[2])
    th.testing.assert_close(th.stack(columns, dim=1), hessian, rtol=1e-9, atol=1e-9)


@SPACES
def test_invalid_options_get_no_gradient(space):
    masks = some_masks(space)
    logits = some_logits(space).requires_grad_(True)
    made = distribution(space, logits, masks)
    action = made.sample()
    (gradient,) = th.autograd.grad(made.log_prob(action).sum() + made.entropy().sum(), logits)
    assert gradient.isfinite().all()
    if not isinstance(space, spaces.MultiBinary):
        assert (gradient[~masks] == 0).all() and (gradient[2:][masks[2:]] != 0).any()


@SPACES
@pytest.mark.parametrize("n_draws", mostly_slow([20, 1000], [20]))
def test_all_draws_are_valid_whatever_the_logits_are(space, n_draws):
    rows = 10_000  # the slow case draws ten million actions
    masks = some_masks(space, rows)
    logits = some_logits(space, rows).float()
    logits[::3] *= 1e9  # the invalid ones among them are by far the largest
    logits[1::3] *= -1e30
    made = distribution(space, logits, masks)
    starts = th.tensor(np.cumsum([0, *mask_parts(space)[:-1]]), device=DEVICE)
    source = noise_source(make_proba_distribution(space), rows, th.device(DEVICE))
    for draw in range(n_draws):
        actions = made.sample() if draw % 2 else sample_with(made, source())
        chosen = actions.reshape(rows, -1).long() + starts
        assert masks.gather(1, chosen).all()


@SPACES
def test_pure_samples_are_those_of_the_distribution(space):
    masks, logits = some_masks(space), some_logits(space).float()
    made = distribution(space, logits, masks)
    th.manual_seed(3)
    expected = made.sample()
    th.manual_seed(3)
    noise = noise_source(make_proba_distribution(space), ROWS, th.device(DEVICE))()
    assert th.equal(sample_with(made, noise), expected)


@SPACES
def test_the_mode_is_the_most_probable_valid_action(space):
    masks, logits = some_masks(space), some_logits(space)
    best = enumerated(space, logits, masks).argmax(dim=1)
    expected = th.stack(every_action(space))[best]
    assert th.equal(distribution(space, logits, masks).mode().reshape(expected.shape).long(), expected)


def test_a_masked_mixed_action_is_the_product_of_its_masked_parts():
    parts = {"kind": spaces.Discrete(3), "move": spaces.Box(-1, 1, (2,), np.float32), "switches": spaces.MultiBinary(2)}
    space = spaces.Dict(parts)
    kind, switches = (some_masks(parts[key]) for key in ("kind", "switches"))
    logits, toggles = some_logits(parts["kind"]), some_logits(parts["switches"])
    means = some_logits(spaces.Discrete(2), seed=4)
    log_std = th.tensor([0.1, -0.3], dtype=th.float64, device=DEVICE)
    assert mask_parts(space) == [3, 2, 2]
    made = masked(Product(space), th.cat([kind, switches], dim=1))
    made.proba_distribution(th.cat([logits, means, toggles], dim=1), log_std)
    action = made.sample()
    expected = [
        distribution(parts["kind"], logits, kind).log_prob(action[:, 0]),
        th.distributions.Normal(means, log_std.exp()).log_prob(action[:, 1:3]).sum(dim=1),
        distribution(parts["switches"], toggles, switches).log_prob(action[:, 3:]),
    ]
    th.testing.assert_close(made.log_prob(action.double()), sum(expected), rtol=1e-6, atol=1e-6)
    assert kind.gather(1, action[:, :1].long()).all()


def test_a_row_has_no_option_if_one_of_its_choices_has_none():
    space = spaces.MultiDiscrete([2, 3])
    masks = np.array([[1, 0, 0, 0, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    assert without_option(masks, first_options(space)).tolist() == [False, True, True, False]
    assert without_option(masks[[0, 3]], first_options(space)) is None
