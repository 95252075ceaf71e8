"""A model that sb3-contrib's TRPO has saved."""

import warnings

import numpy as np
import pytest
import sb3_contrib
from gymnasium import spaces
from selection import mostly_slow
from support.capabilities import BOX, envs
from support.models import assert_same, parameters
from support.small_environments import DEVICE

from sb3_pgx import NPG, TRPO


@pytest.mark.parametrize(
    "action_space",
    mostly_slow([spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), BOX, spaces.MultiBinary(3)], [spaces.Discrete(3), BOX]),
)
def test_a_model_of_contribs_loads_predicts_the_same_and_trains_on(action_space, tmp_path):
    theirs = sb3_contrib.TRPO("MlpPolicy", envs(action_space=action_space), n_steps=6, batch_size=4, seed=0, device=DEVICE)
    theirs.learn(24).save(tmp_path / "theirs")
    one_sum = isinstance(action_space, spaces.Box | spaces.MultiBinary)
    for algorithm in (TRPO, NPG):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = algorithm.load(tmp_path / "theirs", env=envs(action_space=action_space), device=DEVICE)
        told = [str(w.message) for w in warned if "sb3-contrib" in str(w.message)]
        assert len(told) == one_sum and all("target_kl=3 * 0.01, cg_damping=3 * 0.1" in text for text in told)
        assert_same(parameters(model), parameters(theirs))
        observation = BOX.sample()
        assert np.array_equal(*(m.predict(observation, deterministic=True)[0] for m in (model, theirs)))
        model.learn(24)
        model.save(tmp_path / "ours")
        assert algorithm.load(tmp_path / "ours").max_grad_norm is None
