"""The joint replay memory: a transition of all agents, with the reward of each."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx.core.joint_actions import JointActions
from sb3_pgx.environments.joint_env import REWARDS, TERMINATED


class JointReplayBuffer(DictReplayBuffer):
    """
    SB3's replay memory for dictionaries of observations, with the rewards and terminations of all agents, which the infos of
    :class:`~sb3_pgx.environments.JointEnv` hold. Samples have ``rewards`` and ``dones`` of shape ``[B, A]``.

    :param buffer_size: transitions, over all environments
    :param observation_space: observations by agent
    :param action_space: joint actions
    :param kwargs: further arguments of SB3's memory
    """

    def __init__(self, buffer_size: int, observation_space: spaces.Dict, action_space: JointActions, **kwargs: Any):
        super().__init__(buffer_size, observation_space, action_space, **kwargs)
        self.n_agents = len(action_space.of_agents)
        shape = (self.buffer_size, self.n_envs, self.n_agents)
        self.rewards, self.dones, self.timeouts = (np.zeros(shape, np.float32) for _ in range(3))

    def add(
        self,
        obs: dict[str, np.ndarray],  # type: ignore[override]
        next_obs: dict[str, np.ndarray],  # type: ignore[override]
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of each environment.

        :param obs: observations by agent, ``[N, *obs]`` each
        :param next_obs: observations after it
        :param action: joint actions, scaled to [−1, 1], ``[N, D]``
        :param reward: sums over agents, which are not stored, ``[N]``
        :param done: whether the episode ended, ``[N]``
        :param infos: have the agents' rewards and terminations
        """
        rewards, terminated = (np.stack([info[name] for info in infos]) for name in (REWARDS, TERMINATED))
        dones = np.broadcast_to(np.asarray(done, bool)[:, None], terminated.shape)
        truncated = [{"TimeLimit.truncated": row} for row in dones & ~terminated]
        super().add(obs, next_obs, action, rewards, dones, truncated)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        by_agent = {name: getattr(samples, name).reshape(-1, self.n_agents) for name in ("rewards", "dones")}
        return samples._replace(**by_agent)
