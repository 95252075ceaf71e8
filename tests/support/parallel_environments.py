"""Environments of several agents with PettingZoo's parallel API, without PettingZoo."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Agents:
    """
    Environments of gymnasium that are played side by side, each by one agent. An agent that has ended leaves.

    :param envs: one per agent
    """

    metadata: ClassVar = {"name": "agents"}

    def __init__(self, *envs):
        self.envs = {f"agent_{i}": env for i, env in enumerate(envs)}
        self.possible_agents, self.agents = [*self.envs], []

    def observation_space(self, agent):
        return self.envs[agent].observation_space

    def action_space(self, agent):
        return self.envs[agent].action_space

    def reset(self, seed=None, options=None):
        self.agents = [*self.possible_agents]
        returned = {agent: env.reset(seed=seed, options=options) for agent, env in self.envs.items()}
        return tuple({agent: parts[i] for agent, parts in returned.items()} for i in range(2))

    def step(self, actions):
        assert actions.keys() == set(self.agents), "only agents that are still there act"
        returned = {agent: self.envs[agent].step(action) for agent, action in actions.items()}
        parts = [{agent: values[i] for agent, values in returned.items()} for i in range(5)]
        self.agents = [agent for agent in self.agents if not (parts[2][agent] or parts[3][agent])]
        return tuple(parts)

    def close(self):
        for env in self.envs.values():
            env.close()


class WithState(Agents):
    """The same with a state, which counts the agents that are left and the steps."""

    state_space = spaces.Box(-1, 100, (2,), np.float32)
    steps = 0

    def reset(self, seed=None, options=None):
        self.steps = 0
        return super().reset(seed, options)

    def step(self, actions):
        self.steps += 1
        return super().step(actions)

    def state(self):
        return np.array([len(self.agents), self.steps], np.float32)


class OneStep(gym.Env):
    """Noise to observe, one step, no reward, and an end by termination or truncation."""

    def __init__(self, action_space, truncates=False, size=2):
        self.observation_space, self.action_space = spaces.Box(-3, 3, (size,), np.float32), action_space
        self.truncates = truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32), {}

    def step(self, action):
        return self.reset()[0], 0.0, not self.truncates, self.truncates, {}


class MatrixGame(Agents):
    """
    Two agents choose at once, once.

    :param payoffs: of each agent, by the choices of both, ``[2, K, L]``
    """

    metadata: ClassVar = {"name": "matrix game"}

    def __init__(self, payoffs, truncates=(False, False)):
        self.payoffs = np.asarray(payoffs, np.float64)
        choices = self.payoffs.shape[1:]
        super().__init__(*(OneStep(spaces.Discrete(n), end) for n, end in zip(choices, truncates, strict=True)))
        self.played = []

    def step(self, actions):
        choices = tuple(int(actions[agent]) for agent in self.possible_agents)
        self.played.append(choices)
        observations, _, *rest = super().step(actions)
        rewards = {agent: float(of[choices]) for agent, of in zip(self.possible_agents, self.payoffs, strict=True)}
        return (observations, rewards, *rest)


class Walkers:
    """
    Agents that walk at random for some steps each, and are rewarded for steps to the right. It is pickled by its attributes.

    :param lengths: of each agent's episode
    """

    metadata: ClassVar = {"name": "walkers"}

    def __init__(self, lengths):
        self.lengths = {f"agent_{i}": length for i, length in enumerate(lengths)}
        self.possible_agents, self.agents, self.random = [*self.lengths], [], np.random.default_rng(0)

    def observation_space(self, agent):
        return spaces.Box(-100, 100, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def observe(self, agents):
        return {agent: np.array(self.places[agent], np.float32) for agent in agents}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.step_number = [*self.possible_agents], 0
        self.places = {agent: self.random.normal(size=2) for agent in self.agents}
        return self.observe(self.agents), {}

    def step(self, actions):
        self.step_number += 1
        for agent, action in actions.items():
            self.places[agent] = self.places[agent] + self.random.normal(size=2) + (2 * action - 1, 0)
        ends = {agent: self.step_number == self.lengths[agent] for agent in actions}
        self.agents = [agent for agent in self.agents if not ends[agent]]
        rewards = {agent: 2.0 * action - 1 for agent, action in actions.items()}
        return self.observe(actions), rewards, dict.fromkeys(actions, False), ends, {}

    def close(self):
        pass
