"""Environments whose action masks change from state to state, and which raise on an invalid action."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pgx.core.action_masks import mask_parts, mask_size

MASKED_SPACES = {
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
MIXED = spaces.Dict(
    {"kind": spaces.Discrete(3), "move": spaces.Box(-1, 1, (2,), np.float32), "levels": spaces.MultiDiscrete([2, 3])}
)


def choices_of(action):
    """Return the choices of an action as one row; a Box part of a dictionary has none."""
    parts = [part for key, part in action.items() if key != "move"] if isinstance(action, dict) else [action]
    return np.concatenate([np.ravel(part) for part in parts]).astype(int)


class Masked(gym.Env):
    """
    Draws an observation and a mask at every step, and raises ``AssertionError`` on an invalid action. The reward is the share
    of the first valid option among the choices.

    :param action_space: of choices
    :param in_observations: whether masks are a part of the observations, instead of a method of the environment
    :param length: steps after which an episode ends
    :param truncates: whether it ends by truncation
    :param free: whether all actions are always valid
    """

    def __init__(self, action_space=None, in_observations=False, length=7, truncates=False, free=False):
        self.action_space = action_space or spaces.Discrete(5)
        self.in_observations, self.length, self.truncates, self.free = in_observations, length, truncates, free
        vector, size = spaces.Box(-1.0, 1.0, (3,), np.float32), mask_size(self.action_space)
        with_mask = spaces.Dict({"vector": vector, "action_mask": spaces.Box(0, 1, (size,), np.int8)})
        self.observation_space = with_mask if in_observations else vector
        self.starts = np.cumsum([0, *mask_parts(self.action_space)[:-1]])
        if not in_observations:
            self.action_masks = self.current_mask

    def current_mask(self):
        return self.mask.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.drawn(), {}

    def drawn(self):
        mask = self.np_random.random(mask_size(self.action_space)) < 0.4
        for start, n in zip(self.starts, mask_parts(self.action_space), strict=True):
            mask[start + self.np_random.integers(n)] = True
        self.mask = mask | self.free
        vector = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return {"vector": vector, "action_mask": self.mask.astype(np.int8)} if self.in_observations else vector

    def step(self, action):
        choices = choices_of(action)
        chosen = self.starts + choices
        assert self.mask[chosen].all(), f"invalid action {action} where {self.mask.astype(int)} are valid"
        first = np.array([np.flatnonzero(part)[0] for part in np.split(self.mask, self.starts[1:])])
        reward = float((choices == first).mean())
        self.t += 1
        ended = self.t >= self.length
        observation = self.drawn()
        info = {} if self.in_observations else {"action_masks": self.mask.copy()}
        return observation, reward, ended and not self.truncates, ended and self.truncates, info


class MaskedArrays(VectorEnv):
    """Two masked environments that reset in the step after an episode's end, whose observation has no valid action."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self):
        self.envs = [Masked(in_observations=True, length=length) for length in (3, 5)]
        self.num_envs = 2
        self.single_observation_space, self.single_action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.ended = np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        self.ended[:] = False
        return self.stacked([env.reset(seed=i)[0] for i, env in enumerate(self.envs)]), {}

    def step(self, actions):
        seen, rewards, ends = [], np.zeros(2), np.zeros(2, bool)
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.ended[i]:
                seen.append(env.reset()[0])
                continue
            observation, rewards[i], ends[i], _, _ = env.step(action)
            seen.append({**observation, "action_mask": observation["action_mask"] * (not ends[i])})
        self.ended = ends.copy()
        return self.stacked(seen), rewards, ends, np.zeros(2, bool), {}

    @staticmethod
    def stacked(seen):
        return {key: np.stack([one[key] for one in seen]) for key in seen[0]}


def environments(space="Discrete", n=2, **kwargs):
    """Make masked environments with a space of ``MASKED_SPACES``, or with mixed actions for ``"Dict"``."""
    return DummyVecEnv([lambda: Masked(copy.deepcopy({**MASKED_SPACES, "Dict": MIXED}[space]), **kwargs)] * n)
