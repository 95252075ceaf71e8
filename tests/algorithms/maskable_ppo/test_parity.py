"""MaskablePPO beside sb3-contrib's: the same parameters from the same seed, and each other's files."""

import copy

import numpy as np
import pytest
import sb3_contrib
import torch as th
from selection import mostly_slow
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from support.masked_environments import MASKED_SPACES, Masked
from support.models import parameters
from support.small_environments import DEVICE

from sb3_pgx import MaskablePPO

ARGUMENTS = dict(n_steps=16, batch_size=8, n_epochs=3, seed=3, device=DEVICE)
CASES = [(space, compiled) for space in MASKED_SPACES for compiled in (False, True)]


def environments(space="Discrete"):
    return DummyVecEnv([lambda: Masked(copy.deepcopy(MASKED_SPACES[space]), truncates=True)] * 2)


def both(space="Discrete", compiled=False, **kwargs):
    theirs = sb3_contrib.MaskablePPO("MlpPolicy", environments(space), **{**ARGUMENTS, **kwargs})
    return MaskablePPO("MlpPolicy", environments(space), compile=compiled, **{**ARGUMENTS, **kwargs}), theirs


def trained(model, timesteps, **kwargs):
    model.set_random_seed(5)
    return model.learn(timesteps, **kwargs)


def assert_equal(ours, theirs):
    # Both compute in float32 and in different order, over 24 steps: 1e-6 of the parameters' size.
    th.testing.assert_close(parameters(ours), parameters(theirs), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("space, compiled", mostly_slow(CASES, lambda space, compiled: not compiled))
def test_parameters_and_log_are_contribs(space, compiled):
    ours, theirs = both(space, compiled, ent_coef=0.01, clip_range_vf=0.2)
    trained(ours, 128), trained(theirs, 128)
    assert_equal(ours, theirs)
    assert np.array_equal(
        ours.rollout_buffer.action_masks, theirs.rollout_buffer.action_masks.reshape(2, 16, -1).swapaxes(0, 1)
    )


def test_without_masking_it_is_contribs_too():
    ours, theirs = both()
    for env in (ours.env, theirs.env):
        for one in env.envs:
            one.free = True
            one.action_masks = None
    trained(ours, 64, use_masking=False), trained(theirs, 64, use_masking=False)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("space", MASKED_SPACES)
def test_each_loads_the_others_file_and_goes_on_alike(space, tmp_path):
    ours, theirs = both(space)
    trained(ours, 32).save(tmp_path / "ours"), trained(theirs, 32).save(tmp_path / "theirs")
    now_theirs = sb3_contrib.MaskablePPO.load(tmp_path / "ours", env=environments(space), device=DEVICE)
    now_ours = MaskablePPO.load(tmp_path / "theirs", env=environments(space), device=DEVICE, compile=False)
    trained(now_theirs, 32), trained(now_ours, 32)
    assert_equal(now_ours, now_theirs)


def test_the_policies_alone_predict_as_contribs():
    ours, theirs = both()
    observation, mask = np.zeros((1, 3), np.float32), np.array([[0, 1, 0, 0, 0]])
    for model in (ours, theirs):
        assert model.policy.predict(observation, action_masks=mask)[0] == model.predict(observation, action_masks=mask)[0] == 1


def test_a_loop_of_ones_own_collects_as_contribs():
    ours, theirs = both()
    for model in (ours, theirs):
        model.set_random_seed(5)
        timesteps, callback = model._setup_learn(32)
        callback.on_training_start(locals(), globals())
        while model.num_timesteps < timesteps:
            model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps, True)
            model.train()
    assert_equal(ours, theirs)


def test_environments_without_masks_and_box_actions_are_refused():
    model = MaskablePPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match=r"no action masks.*ActionMasker.*use_masking=False"):
        model.learn(8)
    with pytest.raises(AssertionError, match=r"only supports .*Box"):  # as SB3 refuses an action space
        MaskablePPO("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match="takes the policies of sb3-contrib's, which ActorCriticPolicy"):
        MaskablePPO(ActorCriticPolicy, environments())
