"""An environment of several agents as one of gymnasium: one observation, one action and one reward for all agents together."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_pgx.core.joint_actions import JointActions
from sb3_pgx.environments.parallel_env import ParallelEnv

REWARDS, TERMINATED = "agent_rewards", "agent_terminations"  # of each agent, in the infos


class JointEnv(gym.Env):
    """
    An environment with PettingZoo's parallel API whose agents act together, as :class:`~sb3_pgx.MADDPG` learns in it. SB3's
    functions and wrappers take it: ``make_vec_env(lambda: JointEnv(parallel_env()), n_envs=8)``, ``SubprocVecEnv``,
    ``VecNormalize``, ``evaluate_policy``.

    Observations are a dictionary by agent. An action is one too, or a row of numbers
    (:class:`~sb3_pgx.core.joint_actions.JointActions`). The reward is the sum over agents; ``info["agent_rewards"]`` has that
    of each agent, and ``info["agent_terminations"]`` whether the agent's episode was terminated, in the order of
    ``possible_agents``, ``[A]`` each. ``info["agents"]`` has the agents' infos. An episode ends when all agents end; it counts
    as truncated unless all of them were terminated.

    :param env: the environment
    :raises ValueError: it does not have the parallel API, or an agent's actions are neither Box nor Discrete
    """

    def __init__(self, env: Any):
        self.parallel_env = ParallelEnv(env)
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)
        numbered = [agent for agent in self.parallel_env.agents if not isinstance(agent, str)]
        if numbered:
            raise ValueError(
                f"{self.parallel_env.name} names an agent {numbered[0]!r}: joint actions need names, such as 'agent_0'"
            )
        self.observation_space = spaces.Dict(self.parallel_env.observation_spaces)
        self.action_space: JointActions = JointActions(self.parallel_env.action_spaces)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        observations, infos = self.parallel_env.reset(seed, options)
        return self._observations(observations), {"agents": infos}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Take one step.

        :param action: actions by agent, or a row of numbers, ``[D]``
        :raises ValueError: some agents have ended and others have not
        """
        self._steps += 1
        stepped = self.parallel_env.step(action if isinstance(action, Mapping) else self.action_space.by_agent(action))
        agents = self.parallel_env.agents
        ends = {agent: stepped.ended(agent) for agent in agents}
        if any(ends.values()) and not all(ends.values()):
            raise self._early_end(ends)
        rewards = np.array([stepped.rewards[agent] for agent in agents], np.float64)
        terminated = np.array([bool(stepped.terminated[agent]) for agent in agents])
        return (
            self._observations(stepped.observations),
            float(rewards.sum()),
            bool(terminated.all()),
            ends[agents[0]] and not terminated.all(),
            {REWARDS: rewards, TERMINATED: terminated, "agents": stepped.infos},
        )

    def render(self) -> Any:
        return self.parallel_env.env.render()

    def close(self) -> None:
        self.parallel_env.env.close()

    def _observations(self, observations: Mapping[Any, Any]) -> dict[str, Any]:
        return {agent: observations[agent] for agent in self.parallel_env.agents}

    def _early_end(self, ends: Mapping[Any, bool]) -> ValueError:
        ended = " and ".join(agent for agent, end in ends.items() if end)
        left = " and ".join(agent for agent, end in ends.items() if not end)
        return ValueError(
            f"{self.parallel_env.name}: {ended} ended at step {self._steps} of the episode, and {left} goes on. A central "
            "critic needs the observations and actions of all agents until the end: keep agents in the environment, for "
            "example with supersuit.black_death_v3, or share one policy, PPO(policy, parallel_env), which leaves such rows out"
        )
