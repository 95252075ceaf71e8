"""Environments continue exactly from a saved state, by each of the methods, and it is said where none works."""

import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeObservation, RescaleAction, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from support.small_environments import Scripted

from sb3_pgx.checkpoints.environments import process_state, record_episodes, set_process_state
from sb3_pgx.environments import make_vec_env


def trace(env, steps, seed):
    """Step with random actions, and return all that the environments return."""
    env.action_space.seed(seed)
    returned = []
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))
        returned += [observations, rewards, dones, *(info.get("terminal_observation", 0) for info in infos)]
        returned += [[info["episode"][key] for key in "rl"] for info in infos if "episode" in info]
    return returned


def assert_continues(make, before=37, after=60):
    """Assert that two environments of two runs return the same after the state of one was set in the other."""
    original, other = make(), make()
    record_episodes({"env": original})
    original.seed(5)
    original.reset()
    trace(original, before, seed=0)
    state = process_state({"env": original})
    expected = trace(original, after, seed=1)
    other.reset()
    trace(other, 3, seed=2)
    restarting = set_process_state(state, {"env": other})[1]
    try:
        assert restarting == {}
        np.testing.assert_equal(trace(other, after, seed=1), expected)
    finally:
        original.close()
        other.close()


def single(name, *wrappers, vec_env=DummyVecEnv, n=2, **kwargs):
    def make_one():
        env = gym.make(name, **kwargs)
        for wrapper in wrappers:
            env = wrapper(env)
        return Monitor(env)

    return lambda: vec_env([make_one] * n)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"])
def test_by_pickling_attributes(name):
    assert_continues(single(name, NormalizeObservation))


def test_the_time_limit_counts_on():
    assert_continues(single("Pendulum-v1", lambda env: TimeLimit(env, 41)))


@pytest.mark.parametrize("vector", ["vector", "sync"])
def test_vector_environments(vector):
    def make():
        if vector == "vector":
            return make_vec_env("CartPole-v1", 3, 0, "vector")
        from sb3_pgx.environments import as_vec_env

        return as_vec_env(gym.make_vec("CartPole-v1", 3, "sync"))

    assert_continues(make)


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5", "Hopper-v5", "Humanoid-v5"])
def test_by_the_state_of_mujoco(name):
    """Ant and Humanoid compute rewards from positions that belong to the state before the last step."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    assert_continues(single(name, lambda env: RescaleAction(env, -1.0, 1.0), n=1), before=30, after=50)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("continuous", [False, True])
def test_by_replaying_the_episode(continuous):
    pytest.importorskip("Box2D", reason="Box2D is not installed")
    assert_continues(single("LunarLander-v3", continuous=continuous, enable_wind=True), before=130, after=150)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3"])
def test_workers_are_asked(name):
    if name == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="Box2D is not installed")
    make = single(name, vec_env=lambda makers: SubprocVecEnv(makers, start_method="fork"))
    assert_continues(make, before=100, after=100)


class Hidden(Scripted):
    """Cannot be pickled; its episodes are random."""

    def __init__(self, replayable):
        super().__init__([50])
        self.lock, self.replayable, self.total = threading.Lock(), replayable, 0.0
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return super().reset()

    def step(self, action):
        random = self.np_random.normal() if self.replayable else np.random.default_rng().normal()
        self.total += float(action) + random
        observation, _, *ends = super().step(action)
        return observation + np.float32(self.total), self.total, *ends


def test_an_episode_that_a_replay_does_not_reproduce_is_reported():
    assert_continues(lambda: DummyVecEnv([lambda: Hidden(True)]))
    with pytest.raises(AssertionError, match="Hidden"):
        assert_continues(lambda: DummyVecEnv([lambda: Hidden(False)]))


def test_an_episode_that_began_before_the_recording_is_reported():
    env = DummyVecEnv([lambda: Hidden(True)])
    env.reset()
    state = process_state({"env": env})
    assert list(state.restarting.values()) == ["Hidden"]
    env.reset()
    assert process_state({"env": env}).restarting == {}


def test_objects_that_environments_share_are_shared_afterwards():
    def make():
        envs = [Scripted([5]), Scripted([7])]
        envs[0].curriculum = envs[1].curriculum = {"level": [0]}
        return DummyVecEnv([lambda: envs[0], lambda: envs[1]])

    env, other = make(), make()
    env.envs[0].curriculum["level"].append(1)
    set_process_state(process_state({"env": env}), {"env": other})
    assert other.envs[1].curriculum == {"level": [0, 1]}
    assert other.envs[0].curriculum is other.envs[1].curriculum


def test_saving_the_state_changes_nothing():
    env, same = (DummyVecEnv([lambda: Scripted([3, 5])] * 2) for _ in range(2))
    before = {name: type(value) for name, value in vars(env.envs[0]).items()}
    for each in (env, same):
        each.reset()
    process_state({"env": env})
    np.testing.assert_equal(trace(env, 9, 0), trace(same, 9, 0))
    assert {name: type(value) for name, value in vars(env.envs[0]).items()} == before
