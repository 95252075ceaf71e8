"""Seeds, and the files of a model and of its memory."""

import copy
import random

import numpy as np
import pytest
import torch as th
from selection import each_value, mostly_slow
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize
from support.acer_models import ACTIONS, envs, flat, make, some_observations
from support.models import assert_same, assert_same_optimizer, parameters
from support.observers import Metrics
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.acer.record import RawTransitions
from sb3_pgx.algorithms.acer.replay import SegmentReplay


@pytest.mark.parametrize("kind", mostly_slow(ACTIONS, ["Box"]))
def test_the_same_seed_trains_the_same_model(kind):
    one, same, other = (make(kind, seed=seed, env=envs(kind)).learn(60) for seed in (0, 0, 1))
    assert_same(parameters(one), parameters(same))
    assert_same(one.average_policy.state_dict(), same.average_policy.state_dict())
    assert not th.equal(flat(one.policy), flat(other.policy))


def test_replay_has_random_numbers_of_its_own():
    """Whoever else draws from numpy's generator changes nothing."""
    models = []
    for seed in (1, 2):
        model = make()
        np.random.seed(seed)
        models.append(model.learn(60))
    assert models[0]._n_updates > 5 + 2
    assert_same(*map(parameters, models))


@pytest.mark.parametrize("kind, normalize", each_value(ACTIONS, [False, True]))
def test_save_load_continue_equals_uninterrupted_bit_for_bit(kind, normalize, tmp_path):
    """Parameters, moments, the average policy, the memory, the random numbers of the replay."""
    env = VecNormalize(envs(kind)) if normalize else envs(kind)
    model = make(kind, env=env).learn(48)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "memory.pkl")
    later = copy.deepcopy(env)
    if normalize:  # it leaves these two out of a copy
        later.set_venv(copy.deepcopy(env.venv))
        later.returns, later.old_obs = env.returns.copy(), env.old_obs.copy()
    states = (random.getstate(), np.random.get_state(), th.random.get_rng_state())
    model.learn(48, reset_num_timesteps=False)

    loaded = ACER.load(tmp_path / "model.zip", device=DEVICE)
    loaded.load_replay_buffer(tmp_path / "memory.pkl")
    loaded.set_env(later, force_reset=False)
    random.setstate(states[0])
    np.random.set_state(states[1])
    th.random.set_rng_state(states[2])
    counts, metrics = model._n_updates, Metrics()
    loaded.learn(48, reset_num_timesteps=False, callback=metrics)

    assert sum(m["replay_updates"] for m in metrics.updates) > 0 and loaded._n_updates == counts
    assert_same(parameters(model), parameters(loaded))
    assert_same(model.average_policy.state_dict(), loaded.average_policy.state_dict())
    assert_same_optimizer(*(m.policy.optimizer.state_dict() for m in (model, loaded)))
    assert model.replay_generator.bit_generator.state == loaded.replay_generator.bit_generator.state
    samples = [m.replay_buffer.sample(3, np.random.default_rng(1)) for m in (model, loaded)]
    np.testing.assert_array_equal(samples[0].observations, samples[1].observations)


def test_sb3s_checkpoints_hold_the_memory(tmp_path):
    model = make()
    model.learn(48, callback=CheckpointCallback(save_freq=12, save_path=tmp_path, save_replay_buffer=True))
    (file,) = tmp_path.glob("*replay_buffer*24_steps*")
    loaded = ACER.load(tmp_path / "rl_model_24_steps", env=envs(), device=DEVICE)
    loaded.load_replay_buffer(file)
    # The callback is called before the rollout under way is kept.
    assert loaded.replay_buffer.size == 12
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.replay_buffer.size == 36


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: make("Box"), "action space"),
        (lambda: make(env=envs(n=3)), "number of environments"),
        (lambda: make(env=vectorised(Scripted([3]), Scripted([4])), buffer_size=60), "observation space"),
        (lambda: make(n_steps=2, buffer_size=8, replay_start=8), "shorten the segments"),
        (lambda: make(buffer_size=12, replay_start=12), "replay_start=24 is never reached: the memory holds 12"),
    ],
    ids=["actions", "environments", "observations", "segments", "start"],
)
def test_a_memory_of_another_environment_is_refused_and_the_model_keeps_its_own(other, message, tmp_path):
    model = make().learn(36)
    other().learn(24).save_replay_buffer(tmp_path / "memory.pkl")
    held = model.replay_buffer
    before = held.sample(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        model.load_replay_buffer(tmp_path / "memory.pkl")
    assert model.replay_buffer is held and held.size == 36
    np.testing.assert_array_equal(before.observations, held.sample(3, np.random.default_rng(0)).observations)


def test_a_memory_is_loaded_by_a_model_with_shorter_segments(tmp_path):
    make().learn(36).save_replay_buffer(tmp_path / "memory.pkl")
    model = make(n_steps=3)
    model.load_replay_buffer(tmp_path / "memory.pkl")
    ((segments,),) = model.replayed_segments(1)
    assert segments.rewards.shape == (3, 2)


def test_a_model_without_its_memory_is_small_and_predicts_without_making_one(tmp_path):
    model = make(buffer_size=10**14)  # which no machine could allocate
    observation = some_observations()[0]
    expected = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    loaded = ACER.load(tmp_path / "model.zip", device=DEVICE)
    assert loaded.predict(observation, deterministic=True)[0] == expected
    assert loaded.replay_buffer.size == 0
    small = make(env=VecNormalize(envs())).learn(60)
    small.save(tmp_path / "small.zip")
    loaded = ACER.load(tmp_path / "small.zip", device=DEVICE)
    data, tensors, _ = load_from_zip_file(tmp_path / "small.zip", device="cpu")
    kept = [type(x) for x in (*data.values(), *tensors.values())]
    assert loaded.replay_buffer.size == 0 and not {SegmentReplay, RawTransitions} & {*kept}
    assert_same(small.average_policy.state_dict(), loaded.average_policy.state_dict())


def test_a_memory_is_not_mixed_with_what_another_wrapping_gives(tmp_path):
    plain, wrapped = make("Discrete"), make("Discrete", VecNormalize(envs("Discrete")))
    for model, other, what in ((plain, wrapped, "after it"), (wrapped, plain, "before VecNormalize")):
        model.learn(48)
        model.save_replay_buffer(tmp_path / "memory.pkl")
        other.load_replay_buffer(tmp_path / "memory.pkl")
        updates = other._n_updates
        with pytest.raises(ValueError, match=rf"48 transitions stored .*{what}, and new ones would .*reset\(\)"):
            other.learn(12)
        assert other._n_updates == updates
        other.replay_buffer.reset()


def test_a_seed_given_at_loading_is_that_of_the_replay(tmp_path):
    model = make("Discrete").learn(24)
    model.save(tmp_path / "model.zip")

    def first(**kwargs):
        return ACER.load(tmp_path / "model.zip", device=DEVICE, **kwargs).replay_generator.random()

    assert first(seed=1) == first(seed=1) != first(seed=2)
    assert first() == model.replay_generator.random()
