"""The categorical distribution without checks draws what SB3's draws, from the same random numbers."""

import pytest
import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution

from sb3_pgx.core.distributions import Choice


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("n_choices", [1, 2, 5, 40])
def test_actions_are_sb3s(n_choices, scale):
    logits = scale * th.randn(5_000, n_choices, generator=th.Generator().manual_seed(n_choices))
    drawn = []
    for kind in (Choice, CategoricalDistribution):
        th.manual_seed(3)
        actions = kind(n_choices).proba_distribution(logits).sample()
        drawn.append((actions, th.rand(1)))
    (ours, ours_next), (theirs, theirs_next) = drawn
    assert ours.dtype == theirs.dtype and th.equal(ours, theirs) and th.equal(ours_next, theirs_next)


def test_what_is_not_a_number_is_refused():
    with pytest.raises(RuntimeError, match="nan"):
        Choice(2).proba_distribution(th.tensor([[0.0, th.nan]])).sample()
