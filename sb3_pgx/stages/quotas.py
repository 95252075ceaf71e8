"""When a rollout is complete, and which environments still contribute to it."""

from itertools import compress
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.checks import environment_name
from sb3_pgx.core.undo import Refusal


class Quota(Protocol):
    """When a rollout is complete, and which environments still contribute to it."""

    whole_episodes: bool

    def needs_reset(self, episode_starts: np.ndarray) -> bool:
        """Whether the environments must be reset first, given which of them are at the start of an episode, ``[N]``."""

    def contributing(self) -> np.ndarray:
        """Return which environments' next rows count, boolean ``[N]``."""

    def count(self, dones: np.ndarray, valid: np.ndarray | bool = True) -> bool:
        """
        Count a step.

        :param dones: which episodes have ended, ``[N]``
        :param valid: which rows count, ``[N]``
        :return: whether the rollout is complete
        """


class StepQuota:
    """A fixed number of steps from every environment."""

    whole_episodes = False

    def __init__(self, n_steps: int, n_envs: int):
        self.remaining, self._some = n_steps, False
        self._all = np.ones(n_envs, dtype=bool)

    def needs_reset(self, episode_starts: np.ndarray) -> bool:
        return False

    def contributing(self) -> np.ndarray:
        return self._all

    def count(self, dones: np.ndarray, valid: np.ndarray | bool = True) -> bool:
        self.remaining -= 1
        self._some = self._some or valid is self._all or bool(np.any(valid))
        return self.remaining <= 0 and self._some  # from no row at all nothing can be learned


class EpisodeQuota:
    """
    A fixed number of whole episodes from every environment.

    The number is fixed per environment, not in total, because the first k episodes to finish are short ones.

    :param n_episodes: episodes from each environment
    :param env: the environment, for its name in the error
    :param max_episode_steps: length beyond which an episode is taken to be endless
    """

    whole_episodes = True

    def __init__(self, n_episodes: int, env: VecEnv, max_episode_steps: int):
        self.env, self.max_episode_steps = env, max_episode_steps
        self.missing = np.full(env.num_envs, n_episodes)
        self.lengths = np.zeros(env.num_envs, dtype=int)

    def needs_reset(self, episode_starts: np.ndarray) -> bool:
        return not np.all(episode_starts)

    def contributing(self) -> np.ndarray:
        return self.missing > 0

    def count(self, dones: np.ndarray, valid: np.ndarray | bool = True) -> bool:
        self.lengths += valid
        self.missing -= dones & (self.missing > 0)
        self.lengths[dones | (self.missing == 0)] = 0
        if self.lengths.max() >= self.max_episode_steps:
            index = int(self.lengths.argmax())
            raise Refusal(
                f"{environment_name(self.env, index)} has not ended its episode after {self.max_episode_steps} steps, and "
                "this algorithm learns from whole episodes. Wrap the environment in gymnasium.wrappers.TimeLimit, or raise "
                "max_episode_steps."
            )
        return not (self.missing > 0).any()


def counted(infos: list[dict[str, Any]], dones: np.ndarray, quota: Quota) -> tuple[list[dict[str, Any]], np.ndarray]:
    """
    Return the infos and ends of the environments that still contribute. A waiting environment starts episodes that it may not
    finish; those that it does finish are short ones, and would bias the means that are logged.
    """
    if not quota.whole_episodes:
        return infos, dones
    valid = quota.contributing()
    return list(compress(infos, valid)), dones[valid]
