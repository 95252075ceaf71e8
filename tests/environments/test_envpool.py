"""EnvPool's environments: rollouts are what EnvPool returns when it is stepped by hand."""

import numpy as np
import pytest
import torch as th
from support.packages import without

from sb3_pgx import A2C, PPO
from sb3_pgx.environments import as_vec_env, make_vec_env

IDS = {"CartPole-v1": {"max_episode_steps": 15}, "Pendulum-v1": {"max_episode_steps": 7}}


@pytest.fixture
def envpool():
    return pytest.importorskip("envpool", reason="needs EnvPool")


def pool(envpool, env_id, n_envs=3, **kwargs):
    return envpool.make(env_id, env_type="gymnasium", num_envs=n_envs, seed=5, num_threads=1, **{**IDS[env_id], **kwargs})


@pytest.mark.parametrize("env_id", IDS)
def test_a_rollout_is_what_the_library_returns_by_hand(envpool, env_id):
    model = PPO("MlpPolicy", pool(envpool, env_id), n_steps=60, batch_size=90, n_epochs=1, seed=5, device="cpu", compile=False)
    model.learn(1)
    rollout, place = model.last_rollout, 0
    hand = pool(envpool, env_id)
    observations, _ = hand.reset()
    for t in range(60):
        np.testing.assert_array_equal(rollout.observations[t], observations)
        actions = rollout.actions[t].numpy()
        actions = actions.flatten() if env_id == "CartPole-v1" else np.clip(actions, -2, 2)
        following, rewards, terminated, truncated, _ = hand.step(actions)
        np.testing.assert_array_equal(rollout.rewards[t], rewards.astype(np.float32))
        np.testing.assert_array_equal(rollout.terminated[t], terminated)
        np.testing.assert_array_equal(rollout.truncated[t], truncated & ~terminated)
        following = np.array(following)
        for i in np.flatnonzero(rollout.truncated[t]):
            np.testing.assert_array_equal(rollout.final_observations[place], following[i])
            place += 1
        ended = np.flatnonzero(terminated | truncated).astype(np.int32)
        if len(ended):
            following[ended] = hand.reset(ended)[0]
        observations = following
    np.testing.assert_array_equal(rollout.last_observations, observations)
    assert place > 0 and rollout.valid.all() and model.num_timesteps == 180
    assert {e["l"] for e in model.ep_info_buffer} <= set(range(1, 16))


def test_seeds_make_and_the_mode_of_a_pool(envpool):
    first, second = (make_vec_env("Pendulum-v1", 2, seed=9, vector="envpool").reset() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.warns(UserWarning, match="seed=3 is ignored; use envpool.make"):
        A2C("MlpPolicy", pool(envpool, "CartPole-v1"), seed=3, device="cpu", compile=False).learn(15)
    with pytest.raises(ValueError, match="returns 2 of 3 environments at a time: leave out batch_size"):
        as_vec_env(pool(envpool, "CartPole-v1", batch_size=2))
    with pytest.raises(ValueError, match=r"use envpool\.make"):
        as_vec_env(envpool.make("CartPole-v1", env_type="dm", num_envs=2))


@pytest.mark.slow
def test_cartpole_learns(envpool):
    env = make_vec_env("CartPole-v1", 8, seed=0, vector="envpool")
    settings = dict(n_steps=128, batch_size=128, n_epochs=6, learning_rate=1e-3)
    model = PPO("MlpPolicy", env, seed=0, device="cpu", compile=False, **settings).learn(20_000)
    assert np.mean([e["r"] for e in model.ep_info_buffer]) > 100
    assert th.isfinite(model.policy.action_net.weight).all()


def test_without_the_package_one_sentence_names_the_command(monkeypatch):
    without(monkeypatch, "envpool")
    with pytest.raises(ImportError, match=r"^environments of EnvPool need the package envpool: pip install envpool$"):
        make_vec_env("CartPole-v1", 2, vector="envpool")
