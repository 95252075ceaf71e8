"""Logs the episodes of environments that step as arrays where rl_zoo3's ``plot_train`` looks for them."""

import time
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter
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
