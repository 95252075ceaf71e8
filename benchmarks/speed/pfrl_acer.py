"""PFRL's ACER for Discrete actions, with the methods that the benchmark calls."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch as th
from gymnasium import Env
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn


class PFRLACER:
    """
    PFRL's ACER. It learns from the first of the given environments, one segment at a time. A segment ends at the latest with
    its episode. Gradient steps are counted by rows: one step has as many rows as one of our steps, which learns from a
    segment of each environment.

    :param policy: ``"MlpPolicy"``: two layers of 64 tanh units for the policy and two for Q, as in SB3
    :param env: vectorised environments
    :param n_steps: steps of a rollout and of a segment
    :param replay_start: transitions in the memory before it is replayed
    :param buffer_size: transitions that the memory holds
    :param replay_ratio: replayed segments per new segment
    :param learning_rate: learning rate of RMSprop
    :param seed: seed of all random numbers
    :param device: ``"cpu"``
    :param verbose: not used
    :raises ImportError: PFRL, or Gym, on which it depends, is not installed
    """

    def __init__(
        self,
        policy: str,
        env: DummyVecEnv,
        n_steps: int = 20,
        replay_start: int = 1_000,
        buffer_size: int = 50_000,
        replay_ratio: int = 4,
        learning_rate: float = 7e-4,
        seed: int = 0,
        device: str = "cpu",
        verbose: int = 0,
    ):
        assert policy == "MlpPolicy" and device == "cpu"
        agents, buffers = (importlib.import_module(f"pfrl.{name}") for name in ("agents.acer", "replay_buffers"))
        self.n_steps, self.replay_ratio = n_steps, replay_ratio
        self.num_timesteps = self._learned = 0
        self._rows = n_steps * env.num_envs
        self._seed: int | None = seed
        self._env: Any = env.envs[0]
        self._observation: np.ndarray | None = None
        set_random_seed(seed)
        model = _model(agents, self._env)
        self.agent: Any = agents.ACER(
            model,
            _shared_rmsprop(model, learning_rate),
            n_steps,
            gamma=0.99,
            replay_buffer=buffers.EpisodicReplayBuffer(buffer_size),
            n_times_replay=replay_ratio,
            replay_start_size=replay_start,
            max_grad_norm=10.0,
        )
        self.agent.shared_model.share_memory()  # PFRL asserts this before it learns
        update = self.agent.update

        def counted(**kwargs: Any) -> None:
            self._learned += kwargs["t_stop"] - kwargs["t_start"]
            update(**kwargs)

        self.agent.update = counted

    @property
    def n_gradient_steps(self) -> int:
        """Number of our gradient steps with the same number of rows."""
        return self._learned // self._rows

    def set_logger(self, logger: Any) -> None:
        """Do nothing: PFRL does not log."""

    def get_env(self) -> Env:
        """Return the environment that PFRL learns from."""
        return self._env

    def learn(self, total_timesteps: int, callback: None = None, reset_num_timesteps: bool = False) -> "PFRLACER":
        """Continue training for at least as many steps as one of our rollouts has."""
        target = self.num_timesteps + max(total_timesteps, self._rows)
        while self.num_timesteps < target:
            self.collect_rollouts()
        return self

    def collect_rollouts(self) -> None:
        """Step the environment and pass the result to the agent."""
        if self._observation is None:
            self._observation, _ = self._env.reset(seed=self._seed)
            self._seed = None
        action = self.agent.act(self._observation)
        observation, reward, terminated, truncated, _ = self._env.step(action)
        self.num_timesteps += 1
        self._observation = None if terminated or truncated else observation
        self.train(observation, float(reward), terminated, truncated)

    def train(self, *transition: Any) -> None:
        """Pass a step to the agent, which learns whenever a segment is complete."""
        self.agent.observe(*transition)


def _model(agents: ModuleType, env: Env) -> nn.Module:
    """Return the network of SB3's policies, built from PFRL's parts."""
    q_functions, policies = (importlib.import_module(f"pfrl.{name}") for name in ("q_functions", "policies"))
    inputs, actions = env.observation_space.shape[0], int(env.action_space.n)  # type: ignore[index, attr-defined]

    def mlp(*last: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, actions), *last)

    policy, values = mlp(policies.SoftmaxCategoricalHead()), mlp(q_functions.DiscreteActionValueHead())
    return agents.ACERDiscreteActionHead(policy, values)


def _shared_rmsprop(model: nn.Module, learning_rate: float) -> th.optim.Optimizer:
    """Return RMSprop with its state in shared memory from the start."""
    optimizer = th.optim.RMSprop(model.parameters(), learning_rate, eps=1e-5)
    for p in model.parameters():
        p.grad = th.zeros_like(p)
    optimizer.step()
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()
    return optimizer
