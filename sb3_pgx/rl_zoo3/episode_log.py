"""Logs episodes where rl_zoo3's ``plot_train`` and SB3's evaluations look for them, if SB3's ``Monitor`` alone does not."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_pgx.environments import VectorEnvAdapter


class LoggedVectorEnv(VectorEnvAdapter):
    """
    Writes return, length and time of each episode to a file, as SB3's ``Monitor`` does for a single environment.

    It is not a ``VecEnvWrapper``, because environments for evaluation would need the same one, and not ``VecMonitor``, which
    counts steps that only reset.

    :param env: the vector environment
    :param folder: folder of the file ``0.monitor.csv``
    :param env_id: name of the environment, for the head of the file
    """

    def __init__(self, env: gym.vector.VectorEnv, folder: Path, env_id: str):
        super().__init__(env)
        self.file = ResultsWriter(str(folder / "0"), header={"t_start": time.time(), "env_id": env_id})

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        for i in dones.nonzero()[0].tolist():
            self.file.write_row(infos[i]["episode"])
        return observations, rewards, dones, infos

    def close(self) -> None:
        self.file.close()
        super().close()


def with_all_ends(wrapper: Callable[[gym.Env], gym.Env], env: gym.Env) -> gym.Env:
    """
    Wrap an environment, and let its ``Monitor`` see the episodes that the wrapper ends.

    :param wrapper: wrapper of a hyperparameter file, which rl_zoo3 puts outside of the ``Monitor``
    :param env: environment with a ``Monitor``
    """
    wrapped = wrapper(env)
    # The end of an Atari life is not the end of an episode.
    return wrapped if unwrap_wrapper(wrapped, EpisodicLifeEnv) else LogsAllEnds(wrapped)


class LogsAllEnds(gym.Wrapper):
    """
    Logs episodes that a wrapper outside of SB3's ``Monitor`` ends as the ``Monitor`` would. SB3's evaluations wait for these
    logs.

    :param env: environment with a ``Monitor``
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        monitor = unwrap_wrapper(env, Monitor)
        assert isinstance(monitor, Monitor)
        self.monitor = monitor

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        monitor = self.monitor
        if (terminated or truncated) and not monitor.needs_reset:
            monitor.needs_reset = True
            seconds = time.time() - monitor.t_start
            row = {"r": round(sum(monitor.rewards), 6), "l": len(monitor.rewards), "t": round(seconds, 6)}
            row |= {key: info[key] for key in monitor.info_keywords} | monitor.current_reset_info
            monitor.episode_returns.append(sum(monitor.rewards))
            monitor.episode_lengths.append(len(monitor.rewards))
            monitor.episode_times.append(seconds)
            if monitor.results_writer is not None:
                monitor.results_writer.write_row(row)
            info = {**info, "episode": row}
        return observation, reward, terminated, truncated, info
