"""
What was acted on is what is learned from: an environment of unusual spaces, types or habits trains as its plain twin does.
"""

import copy
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import RELATIVES, mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.models import make, parameters
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import PPO
from sb3_pgx.registry import ALGORITHMS


class Walk(gym.Env):
    """
    A walk over the whole numbers 0 to 9 that depends on whole-numbered actions, with ends of both kinds.

    :param observation_space: of what ``observe`` makes of the number
    :param action_space: of what ``act`` makes a whole number of
    """

    def __init__(self, observation_space, action_space, observe, act):
        self.observation_space, self.action_space = observation_space, action_space
        self.observe, self.act = observe, act
        self.number = self.steps = 0

    def reset(self, *, seed=None, options=None):
        self.number, self.steps = (self.number * 7 + 3) % 10, 0
        return self.observe(self.number), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.number, self.steps = int(self.number * 3 + self.act(action) + 1) % 10, self.steps + 1
        terminated = self.number == 4
        return self.observe(self.number), self.number / 10, terminated, not terminated and self.steps >= 4, {}


def box(dtype, shape=(1,)):
    return spaces.Box(0, 9, shape, dtype)


def numbers(dtype):
    return box(dtype), lambda number: np.array([number], dtype)


PLAIN = (*numbers(np.float32), spaces.Discrete(3), int)


def trained(name, walk, vec_env=DummyVecEnv, normalise=False, policy="MlpPolicy", **kwargs):
    env = vec_env([lambda: Walk(walk[0], walk[2], walk[1], walk[3])] * 2)
    if normalise:
        env = VecNormalize(env, norm_reward=False)
    if name == "acer":
        kwargs = {"replay_start": 12, "buffer_size": 48, **kwargs}
    return make(name, env, policy, policy_kwargs=dict(net_arch=[8]), learning_rate=1e-2, **kwargs).learn(60)


@cache
def plainly_trained(name, normalise=False):
    return trained(name, PLAIN, normalise=normalise)


def assert_trained_alike(one, other):
    for (key, ours), theirs in zip(parameters(one).items(), parameters(other).values(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    assert one.num_timesteps == other.num_timesteps


# Compiled, one algorithm for each kind of graph: of one step, of epochs, of derivatives, of the memory, and of factors.
COMPILED = ("a2c", "ppo_penalty", "trpo", "acer", "acktr")
CASES = [(name, False) for name in ALGORITHMS] + [(name, True) for name in COMPILED]

QUICK_CASES = mostly_slow(CASES, lambda name, compile: name == "ppo_penalty" if compile else name not in RELATIVES)
each = pytest.mark.parametrize("name, compile", QUICK_CASES)
pytestmark = pytest.mark.usefixtures("graphs")


# ------------------------------------------------------------------------------------------------------- observations


@each
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_whole_numbered_observations_under_vec_normalize_train_as_floats(name, dtype, compile):
    model = trained(name, (*numbers(dtype), *PLAIN[2:]), normalise=True, compile=compile)
    assert_trained_alike(model, plainly_trained(name, normalise=True))


def test_what_the_policy_acted_on_is_in_the_buffer(name):
    class Watch(BaseCallback):
        seen = ()

        def _on_step(self):
            self.seen = (*self.seen, self.locals["obs_tensor"].clone())
            return True

        def _on_rollout_end(self):
            rows = self.model.rollout_buffer.observations
            assert np.array_equal(rows, th.stack(self.seen).cpu().numpy()) and rows.dtype == np.float32
            assert len(np.unique(rows)) > 4
            self.seen = ()

    env = VecNormalize(DummyVecEnv([lambda: Walk(*numbers(np.uint8)[:1], PLAIN[2], numbers(np.uint8)[1], int)] * 2))
    make(name, env).learn(30, callback=Watch())


def test_images_stay_what_they_are(name):
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    model = make(name, vectorised(AnySpace(image, spaces.Discrete(2))), "CnnPolicy").learn(12)
    assert model.rollout_buffer.observations.dtype == np.uint8


@each
@pytest.mark.parametrize("start", [1, -3])
def test_discrete_observations_and_actions_that_do_not_count_from_0(name, start, compile):
    model = trained(name, discrete(start), compile=compile)
    assert_trained_alike(model, from_0(name))
    assert_predicts_alike(model, from_0(name), start)


def discrete(start):
    return spaces.Discrete(10, start=start), lambda k: k + start, spaces.Discrete(3, start=start), lambda a: int(a) - start


@cache
def from_0(name):
    return trained(name, discrete(0))


def assert_predicts_alike(shifted, plain, start):
    for deterministic in (True, False):
        for observations in (np.arange(10), 4, np.int64(4)):
            th.manual_seed(0)
            ours, _ = shifted.predict(observations + start, deterministic=deterministic)
            th.manual_seed(0)
            theirs, _ = plain.predict(observations, deterministic=deterministic)
            assert np.array_equal(ours, theirs + start)
            assert all(map(shifted.action_space.contains, np.atleast_1d(ours)))


def multi_discrete(start):
    def act(action):
        return int((action - start).sum())

    return (
        spaces.MultiDiscrete([10, 10], start=start),
        lambda k: np.array([k, 9 - k]) + start,
        spaces.MultiDiscrete([2, 3], start=start),
        act,
    )


@pytest.mark.parametrize("name, compile", [case for case in QUICK_CASES if case.values[0] != "acer"])
def test_multi_discrete_spaces_that_do_not_count_from_0(name, compile):
    model, plain = trained(name, multi_discrete(np.array([5, -2])), compile=compile), trained(name, multi_discrete([0, 0]))
    assert_trained_alike(model, plain)
    ours, theirs = (m.predict(np.add(m.observation_space.start, [3, 6]), deterministic=True)[0] for m in (model, plain))
    assert np.array_equal(ours - [5, -2], theirs) and model.action_space.contains(ours)


def dictionary(start):
    space = spaces.Dict({"k": spaces.Discrete(10, start=start), "box": box(np.float32)})
    return space, lambda k: {"k": k + start, "box": np.array([k], np.float32)}, spaces.Discrete(3), int


@each
@pytest.mark.parametrize("normalise", [False, True])
def test_parts_of_a_dictionary_that_do_not_count_from_0(name, normalise, compile):
    assert_trained_alike(trained_on_parts(name, normalise, 4, compile=compile), trained_on_parts_from_0(name, normalise))


def trained_on_parts(name, normalise, start, **kwargs):
    env = DummyVecEnv([lambda: Walk(dictionary(start)[0], PLAIN[2], dictionary(start)[1], int)] * 2)
    if normalise:
        env = VecNormalize(env, norm_reward=False, norm_obs_keys=["box"])
    more = {"replay_start": 12, "buffer_size": 48} if name == "acer" else {}
    kwargs = dict(policy_kwargs=dict(net_arch=[8]), learning_rate=1e-2, **more, **kwargs)
    return make(name, env, "MultiInputPolicy", **kwargs).learn(60)


@cache
def trained_on_parts_from_0(name, normalise):
    return trained_on_parts(name, normalise, 0)


def test_the_file_of_a_shifted_space_is_sb3s_and_sb3_counts_from_0(tmp_path):
    space = spaces.Discrete(3, start=2)
    model = PPO("MlpPolicy", vectorised(AnySpace(box(np.float32), space)), n_steps=10, batch_size=10, seed=0, device=DEVICE)
    model.learn(20).save(tmp_path / "model.zip")
    observations = np.random.default_rng(0).uniform(0, 9, (20, 1)).astype(np.float32)
    theirs, _ = sb3.PPO.load(tmp_path / "model.zip", device=DEVICE).predict(observations, deterministic=True)
    ours, _ = PPO.load(tmp_path / "model.zip", device=DEVICE).predict(observations, deterministic=True)
    assert np.array_equal(ours, theirs + 2)


# ------------------------------------------------------------------------------------------------------- actions


@each
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_an_integer_box_gets_the_nearest_whole_numbers_and_the_sampled_actions_are_learned_from(name, dtype, compile):
    ours, plain = trained(name, boxed(dtype, lambda a: int(a[0])), compile=compile), rounded_by_the_environment(name)
    assert_trained_alike(ours, plain)
    whole = ours.rollout_buffer.actions
    assert whole.dtype == np.float32 and (whole != np.rint(whole)).any(), "the sampled numbers, not those of the environment"
    observations = np.random.default_rng(0).uniform(0, 9, (20, 1)).astype(np.float32)
    actions, expected = (m.predict(observations, deterministic=True)[0] for m in (ours, plain))
    assert np.array_equal(actions, np.rint(expected)) and all(map(ours.action_space.contains, actions))


def boxed(dtype, act):
    return *numbers(np.float32), spaces.Box(0, 3, (1,), dtype), act


@cache
def rounded_by_the_environment(name):
    return trained(name, boxed(np.float32, lambda a: int(np.rint(a[0]))))


@pytest.mark.parametrize("low, high, fits", [(-100, 100, False), (-60, 60, True)])
def test_a_squashed_integer_box_is_refused_if_its_width_overflows(low, high, fits):
    env = vectorised(AnySpace(box(np.float32), spaces.Box(low, high, (1,), np.int8)))
    arguments = dict(use_sde=True, n_steps=10, policy_kwargs=dict(squash_output=True), device=DEVICE)
    if fits:
        return PPO("MlpPolicy", env, batch_size=10, **arguments).learn(
            20
        )  # AnySpace looks whether the actions are in the space
    with pytest.raises(ValueError, match=r"whose width overflows int8, but squash_output=True needs it"):
        PPO("MlpPolicy", env, batch_size=10, **arguments)


# ------------------------------------------------------------------------------------------------------- handed over


class Reuses(DummyVecEnv):
    """Returns the same arrays, dictionaries and lists at every step, and writes nonsense into them when it steps next."""

    def __init__(self, env_fns):
        super().__init__(env_fns)
        self.given = None

    def reset(self):
        observations = super().reset()
        self.given = [observations, np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool), []]
        self.finals = [np.zeros_like(observations[0]) for _ in range(self.num_envs)]
        return observations

    def step_wait(self):
        spoil(self.given)
        observations, rewards, dones, infos = copy.deepcopy(super().step_wait())
        kept_observations, kept_rewards, kept_dones, kept_infos = self.given
        kept_observations[:], kept_rewards[:], kept_dones[:] = observations, rewards, dones
        for final, info in zip(self.finals, infos, strict=True):
            if "terminal_observation" in info:
                final[:] = info["terminal_observation"]
                info["terminal_observation"] = final
        kept_infos[:] = infos
        return tuple(self.given)


def spoil(given):
    observations, rewards, dones, infos = given
    observations[:], rewards[:], dones[:] = -77, 1e3, ~dones
    for info in infos:
        if "terminal_observation" in info:
            info["terminal_observation"][:] = -99
        info.clear()


@each
def test_whatever_an_environment_does_to_what_it_handed_over_is_not_learned_from(name, compile):
    assert_trained_alike(trained(name, PLAIN, Reuses, compile=compile), plainly_trained(name))


class Lists(DummyVecEnv):
    """Returns rewards and ends as lists of Python's numbers."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards.tolist(), dones.tolist(), infos


def test_rewards_and_ends_may_come_in_lists(name):
    assert_trained_alike(trained(name, PLAIN, Lists), plainly_trained(name))
