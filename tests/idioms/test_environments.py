"""What people train on: their own vectorised environments and wrappers, SB3's wrappers, and swapped environments."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from support.beside_sb3 import BOX, STEPS, Drift, drifting, idiom
from support.small_environments import vectorised


class Arrays(VecEnv):
    """
    Two points in the plane as arrays. Rewards, infos and final observations are written over at every step; SB3 itself needs
    new arrays of observations and dones.
    """

    def __init__(self):
        super().__init__(2, spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Discrete(3))
        self.generator = np.random.default_rng(0)
        self.state, self.age = np.zeros((2, 2), np.float32), np.zeros(2, int)
        self.rewards, self.infos, self.final = np.zeros(2, np.float32), [{}, {}], np.zeros(2, np.float32)

    def start(self, which):
        self.state[which] = self.generator.uniform(-0.5, 0.5, self.state[which].shape)
        self.age[which] = 0

    def reset(self):
        self.start(slice(None))
        return self.state.copy()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        self.state[:] = 0.9 * self.state + 0.3 * (self.actions[:, None] - 1) + self.generator.normal(0.1, 0.2, (2, 2))
        self.age += 1
        self.rewards[:] = 1 - np.square(self.state).sum(axis=1)
        cut, far = self.age >= np.array([4, 3]), np.abs(self.state).max(axis=1) > 1.5
        for i, info in enumerate(self.infos):
            info.clear()
            if cut[i] or far[i]:
                self.final[:] = self.state[i]
                info |= {"terminal_observation": self.final, "TimeLimit.truncated": bool(cut[i] and not far[i])}
                self.start(i)
        return self.state.copy(), self.rewards, cut | far, self.infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None, None]

    def set_attr(self, attr_name, value, indices=None):
        pass

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        return [None, None]

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False, False]


@idiom(quick=True)
def test_a_vec_env_of_ones_own_that_reuses_its_arrays(make):
    return make(env=VecMonitor(Arrays())).learn(STEPS)


@idiom("A2C", "PPO")
def test_a_vec_env_without_a_monitor(make):
    return make(env=Arrays()).learn(STEPS)


class Silent(Arrays):
    """Returns no dictionaries at all unless an episode ends."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards, dones, infos if dones.any() else []


@idiom("PPO", "A2C")
def test_a_vec_env_that_returns_infos_only_where_an_episode_ends(make):
    return make(env=Silent()).learn(STEPS)


class Shaped(VecEnvWrapper):
    """Rewards with a potential, and observations of half the size."""

    def reset(self):
        self.before = self.venv.reset()
        return 0.5 * self.before

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        rewards = rewards + np.where(dones, 0.0, np.abs(self.before).sum(axis=1) - np.abs(observations).sum(axis=1))
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = 0.5 * info["terminal_observation"]
        self.before = observations
        return 0.5 * observations, rewards, dones, infos


@idiom("PPO", "A2C")
def test_a_vec_env_wrapper_that_changes_rewards_and_observations(make):
    return make(env=Shaped(drifting())).learn(STEPS)


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_vec_normalize(make):
    env = VecNormalize(drifting(), clip_obs=2.0)
    model = make(env=env).learn(STEPS)
    return model, env.obs_rms.mean, env.ret_rms.var


@idiom("PPO")
def test_vec_normalize_that_is_saved_loaded_and_frozen(make, tmp_path):
    model = make(env=VecNormalize(drifting()))
    model.learn(32)
    model.get_vec_normalize_env().save(str(tmp_path / "normalize.pkl"))
    env = VecNormalize.load(str(tmp_path / "normalize.pkl"), drifting())
    env.training = False
    env.seed(4)
    model.set_env(env)
    return model.learn(32), env.obs_rms.mean


@idiom("PPO", "A2C", "RecurrentPPO")
def test_stacked_frames(make):
    return make(env=VecFrameStack(drifting(), 3)).learn(STEPS)


@idiom("PPO")
def test_stacked_and_normalised_frames_of_box_observations_with_a_monitor(make):
    env = VecNormalize(VecFrameStack(VecMonitor(drifting()), 2), norm_reward=False)
    model = make(env=env).learn(STEPS)
    return model, [episode["r"] for episode in model.ep_info_buffer]


class InDict(Drift):
    """The same with the observation in two parts."""

    observation_space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (1,), np.float32), "sign": spaces.Discrete(2)})

    def observe(self):
        return {"x": self.state[:1].astype(np.float32), "sign": int(self.state[1] > 0)}


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_dictionaries(make):
    return make("MultiInputPolicy", vectorised(InDict(), InDict())).learn(STEPS)


class Cells(Drift):
    """The same with a number for an observation."""

    observation_space = spaces.Discrete(4)

    def observe(self):
        return int(self.state[0] > 0) + 2 * int(self.state[1] > 0)


@idiom("PPO", "A2C")
def test_discrete_observations(make):
    return make(env=vectorised(Cells(), Cells())).learn(STEPS)


@idiom("PPO", "A2C")
@pytest.mark.parametrize("space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2), BOX], ids=lambda s: type(s).__name__)
def test_several_choices_at_once_and_numbers(make, space):
    return make(env=drifting(space)).learn(STEPS)


@idiom("A2C", "PPO", "RecurrentPPO")
def test_time_limits_and_monitors_with_keywords(make):
    def one():
        return Monitor(gym.wrappers.TimeLimit(Drift(max_steps=1000), 5), info_keywords=("distance",))

    model = make(env=DummyVecEnv([one, one])).learn(STEPS)
    return model, [[e["r"], e["l"], e["distance"]] for e in model.ep_info_buffer]


@idiom("PPO")
def test_make_vec_env_with_a_wrapper(make):
    env = make_vec_env(Drift, 2, seed=3, wrapper_class=gym.wrappers.TransformReward, wrapper_kwargs=dict(func=np.tanh))
    return make(env=env).learn(STEPS)


@idiom("PPO", "A2C")
def test_a_single_environment_that_is_not_vectorised(make):
    return make(env=Drift(BOX) if make.algorithm != "TRPO" else Drift(), n_steps=16).learn(STEPS)


@idiom("PPO", "A2C", "RecurrentPPO")
def test_environments_are_swapped_between_trainings(make):
    model = make().learn(32)
    windy = drifting(max_steps=4)
    windy.seed(5)
    model.set_env(windy)
    return model.learn(32, reset_num_timesteps=False)


@idiom("PPO", "A2C")
def test_environments_are_swapped_without_a_reset(make):
    """The last observation is that of the old one."""
    model = make().learn(32)
    windy = drifting(max_steps=4)
    windy.seed(5)
    windy.reset()
    model.set_env(windy, force_reset=False)
    return model.learn(32, reset_num_timesteps=False)


@idiom("PPO", "RecurrentPPO")
def test_another_number_of_environments_after_loading(make, tmp_path):
    model = make().learn(32)
    model.save(tmp_path / "model")
    env = drifting(n=4)
    env.seed(5)
    return make.load(tmp_path / "model", env=env).learn(64)
