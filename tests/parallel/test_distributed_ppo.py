"""The gradient threshold of distributed PPO: a step waits for all but D of the processes."""

import pytest
from support.ranks import on_ranks


def test_the_mean_is_that_of_the_gradients_that_arrive_first(tmp_path):
    """Process r contributes 10^r. The last one is late first, then the second one; then D = 1 are dropped at random."""
    first, second, third = (rank["first_gradients:1"] for rank in on_ranks(tmp_path, "first_gradients:1", size=3))
    means, dropped = first
    assert means[:2] == pytest.approx([(1 + 10) / 2, (1 + 100) / 2])
    assert means[2] == pytest.approx((1 + 10) / 2) or means[2] == pytest.approx((1 + 100) / 2)
    assert dropped == 3
    assert second[0] == third[0] == means  # all processes take the same steps


@pytest.mark.slow
def test_a_slow_process_is_dropped_and_stays_in_step(tmp_path):
    results = [rank["dropping:PPOPenalty"] for rank in on_ranks(tmp_path, "dropping:PPOPenalty", size=2)]
    digests, steps, dropped = zip(*results, strict=True)
    assert len(set(digests)) == 1 and len(set(steps)) == 1
    assert dropped[0] > 10  # of 50 gradients
