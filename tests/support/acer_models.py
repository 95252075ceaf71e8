"""Small ACER models with replay, and environments that record what they returned."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.core.distributions import packed, release_graph

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}
BOTH = pytest.mark.parametrize("kind", ACTIONS)


class Told(AnySpace):
    """An environment of random, distinct observations and rewards that records what it returned."""

    def __init__(self, action_space, seed=0):
        super().__init__(copy.deepcopy(BOX), copy.deepcopy(action_space))
        self.observation_space.seed(seed)
        self.rewards, self.observations = [], []

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.observations.append(observation)
        return observation, info

    def step(self, action):
        observation, _, *others = super().step(action)
        reward = float(3 + 2 * observation[0])
        self.observations.append(observation)
        self.rewards.append(reward)
        return observation, reward, *others


def envs(kind="Discrete", n=2):
    return vectorised(*(Told(ACTIONS[kind], seed) for seed in range(n)))


def make(kind="Discrete", env=None, model_class=ACER, **kwargs):
    """Return a small ACER: rollouts of six steps in two environments, replay from the second rollout on."""
    policy_kwargs = {"net_arch": [8], **kwargs.pop("policy_kwargs", {})}
    small = dict(n_steps=6, buffer_size=60, replay_start=24, replay_ratio=2.0, learning_rate=5e-3, compile=False)
    arguments = {**small, "seed": 0, "device": DEVICE, **kwargs}
    return model_class("MlpPolicy", envs(kind) if env is None else env, policy_kwargs=policy_kwargs, **arguments)


def some_observations():
    return np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)


def watch(model, method, note):
    """Call ``note`` with a method's arguments before the method runs. Return the list of its results."""
    noted, original = [], getattr(model, method)

    def noting(*args, **kwargs):
        noted.append(note(*args, **kwargs))
        return original(*args, **kwargs)

    setattr(model, method, noting)
    return noted


def watch_epochs(model, note):
    """Before each epoch of gradient steps, call ``note`` with its batches and the update. Return the list of its results."""
    noted, gradient_steps = [], model.gradient_steps

    @contextmanager
    def noting(*args, **kwargs):
        with gradient_steps(*args, **kwargs) as steps:
            epoch = steps.epoch
            steps.epoch = lambda batches: (noted.append(note(batches, steps)), epoch(batches))
            yield steps

    model.gradient_steps = noting
    return noted


def watch_steps(model, note):
    """Note something before each gradient step, given its segments. Each step becomes an epoch of its own."""
    noted, replayed_segments = [], model.replayed_segments
    model.replayed_segments = lambda n: ([batch] for batches in replayed_segments(n) for batch in batches)
    watch_epochs(model, lambda batches, steps: noted.append(note(*batches, steps)))
    return noted


def distribution_of(policy, observations):
    """Return the packed parameters of the distributions from which the policy acts."""
    with th.no_grad():
        result = packed(policy.get_distribution(observations)).clone()
    release_graph(policy)
    return result


def flat(policy, buffers=True):
    tensors = [*policy.parameters(), *(policy.buffers() if buffers else ())]
    return th.cat([x.detach().double().flatten() for x in tensors])


class Change(BaseCallback):
    """A callback that sets an attribute of the model after a number of steps."""

    def __init__(self, after, **attributes):
        super().__init__()
        self.after, self.attributes = after, attributes

    def _on_step(self):
        if self.num_timesteps == self.after:
            vars(self.model).update(self.attributes)
        return True


class Normalising(FlattenExtractor):
    """A feature extractor with buffers: running statistics and a counter of batches."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))
