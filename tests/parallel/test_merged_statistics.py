"""Statistics of VecNormalize over several processes: those of all numbers together."""

import copy

import numpy as np
import pytest
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_pgx.environments.merged_statistics import gained, merge


@pytest.mark.parametrize("shape", [(), (3,)])
def test_merged_statistics_are_those_of_the_pooled_numbers(shape):
    generator = np.random.default_rng(0)
    seen_before = generator.normal(5.0, 2.0, (50, *shape))
    seen_by = [generator.normal(mean, 3.0, (20, *shape)) for mean in (-10.0, 0.0, 30.0)]  # processes may see different things

    def learned(*parts):
        statistics = RunningMeanStd(epsilon=0.0, shape=shape)
        for part in parts:
            statistics.update(part)
        return {"obs_rms": {"position": statistics}, "ret_rms": copy.deepcopy(statistics)}

    before = learned(seen_before)
    after = [learned(seen_before, part) for part in seen_by]
    gains = [gained(statistics, before) for statistics in after]
    pooled = np.concatenate([seen_before, *seen_by])
    for statistics in after:
        merge(statistics, before, gains)
        for one in (statistics["obs_rms"]["position"], statistics["ret_rms"]):
            np.testing.assert_allclose(one.mean, pooled.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(one.var, pooled.var(axis=0), rtol=1e-12)
            assert one.count == pytest.approx(110)


def test_observations_that_are_not_normalised_have_no_statistics():
    rewards = RunningMeanStd(shape=())
    before = {"ret_rms": copy.deepcopy(rewards)}
    rewards.update(np.array([1.0, 3.0]))
    assert list(gained({"ret_rms": rewards}, before)) == ["rewards"]
