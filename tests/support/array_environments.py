"""Environments of scripted episodes that step as arrays, the same one by one, and comparisons of models trained on them."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from support.capabilities import QUICK

from sb3_pgx.registry import ALGORITHMS

TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)
OBSERVATIONS, ACTIONS = spaces.Box(-100, 100, (3,), np.float32), spaces.Discrete(3)


class Episodes(gym.Env):
    """Observations tell environment, episode and step, and so does the reward; nothing is random."""

    observation_space, action_space = OBSERVATIONS, ACTIONS

    def __init__(self, index, pattern):
        self.index, self.pattern, self.episode, self.t, self.calls = index, pattern, -1, 0, 0

    def observe(self):
        return np.array([self.index, self.episode, self.t / 4], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {"started": self.episode}

    def step(self, action):
        self.t += 1
        length, ends = self.pattern[self.episode % len(self.pattern)]
        terminated, truncated = ends if self.t == length else (False, False)
        reward = 0.1 * self.index + 0.01 * self.t + float(action) / 3
        return self.observe(), reward, terminated, truncated, {"t": self.t, "even": {"index": self.index}}

    def twice(self, number):
        return 2 * number + self.index


class Arrays(VectorEnv):
    """The same as arrays, in one autoreset mode; a mask is honoured or ignored. Steps that only reset give a wild reward."""

    def __init__(self, patterns, mode, honours_mask=True, wild=0.0, of=Episodes):
        self.envs = [of(i, pattern) for i, pattern in enumerate(patterns)]
        self.num_envs, self.wild, self.honours_mask = len(patterns), wild, honours_mask
        self.single_observation_space, self.single_action_space = OBSERVATIONS, ACTIONS
        self.observation_space, self.action_space = (batch_space(s, self.num_envs) for s in (OBSERVATIONS, ACTIONS))
        self.metadata = {"autoreset_mode": mode}
        self.mode, self.ended = mode, np.zeros(self.num_envs, bool)
        self.observations = np.zeros((self.num_envs, 3), np.float32)  # the same array at every step

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        if seed is not None:
            for env in self.envs:
                env.episode = -1
        for i, env in enumerate(self.envs):
            if mask is None or mask[i] or not self.honours_mask:
                self.observations[i], self.ended[i] = env.reset()[0], False
        return self.observations, {}

    def step(self, actions):
        rewards, terminated, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        infos = {"t": np.zeros(self.num_envs, int)}
        for i, env in enumerate(self.envs):
            if self.ended[i] and self.mode == AutoresetMode.NEXT_STEP:
                self.observations[i], rewards[i], self.ended[i] = env.reset()[0], self.wild, False
                continue
            assert not self.ended[i]
            self.observations[i], rewards[i], terminated[i], truncated[i], info = env.step(actions[i])
            infos["t"][i], self.ended[i] = info["t"], terminated[i] or truncated[i]
        if self.mode == AutoresetMode.SAME_STEP and self.ended.any():
            infos["final_obs"] = np.full(self.num_envs, None, object)
            for i in self.ended.nonzero()[0]:
                infos["final_obs"][i] = self.observations[i].copy()
                self.observations[i], self.ended[i] = self.envs[i].reset()[0], False
        return self.observations, rewards, terminated, truncated, infos


def functions(patterns):
    return [lambda i=i, pattern=pattern: Episodes(i, pattern) for i, pattern in enumerate(patterns)]


def one_by_one(patterns):
    return DummyVecEnv([lambda make=make: Monitor(make()) for make in functions(patterns)])


def trained(name, env, timesteps=60, **kwargs):
    np.random.seed(0)
    th.manual_seed(0)
    arguments = {**QUICK[name], "n_steps": 8} if "n_steps" in QUICK[name] else QUICK[name]
    model = ALGORITHMS[name]("MlpPolicy", env, seed=0, device="cpu", compile=False, **{**arguments, **kwargs})
    return model.learn(timesteps)


def tensors(rollout):
    kept = {k: v for k, v in vars(rollout).items() if isinstance(v, th.Tensor)}
    assert {"observations", "actions", "rewards", "terminated", "truncated", "valid", "last_observations"} <= kept.keys()
    return kept


def assert_same(model, expected):
    ours, theirs = tensors(model.last_rollout), tensors(expected.last_rollout)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert th.equal(ours[key].nan_to_num(), value.nan_to_num()), key
    for key, value in expected.policy.state_dict().items():
        assert th.equal(model.policy.state_dict()[key], value), key
    assert model.num_timesteps == expected.num_timesteps
    episodes = [(e["l"], e["r"]) for e in model.ep_info_buffer]
    assert episodes == [(e["l"], pytest.approx(e["r"])) for e in expected.ep_info_buffer]
