"""Runs with diagnostics and a second callback that copies rollout and policy before and after each update."""

import copy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from support.small_environments import AnySpace

from sb3_pgx import A2C, PPO, TRPO
from sb3_pgx.core.distributions import release_graph

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)
FIELDS = ("observations", "actions", "values", "log_probs", "advantages", "returns", "rewards")
SHORT = dict(n_steps=16, seed=0, device="cpu")
EPOCHS = dict(SHORT, batch_size=8, n_epochs=3)
CRITIC = dict(SHORT, batch_size=8, n_critic_updates=2)
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, EPOCHS),
    "sb3 PPO": (SB3PPO, EPOCHS),
    "A2C": (A2C, SHORT),
    "sb3 A2C": (SB3A2C, SHORT),
    "TRPO": (TRPO, CRITIC),
    "contrib TRPO": (ContribTRPO, CRITIC),
}


class Witness(BaseCallback):
    """Copy each rollout, the policy at its end, and the policy when the next rollout begins."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self._given: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self._copy_after()
        self._given = []

    def _on_step(self) -> bool:
        self._given.append(self.locals["rewards"].copy())
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer
        arrays = {name: getattr(buffer, name).copy() for name in FIELDS}
        flat = {name: th.as_tensor(x.reshape(-1, *x.shape[2:])) for name, x in arrays.items()}
        self.seen.append({**flat, "given": np.concatenate(self._given), "before": self._copy()})

    def _on_training_end(self) -> None:
        self._copy_after()

    def _copy_after(self) -> None:
        if self.seen and "after" not in self.seen[-1]:
            self.seen[-1]["after"] = self._copy()

    def _copy(self) -> Any:
        release_graph(self.model.policy)
        policy = copy.deepcopy(self.model.policy)
        policy.set_training_mode(False)
        return policy


def train(name: str, action_space: Any, diagnostics: BaseCallback, n_updates: int = 2, **kwargs: Any) -> tuple[Any, Witness]:
    """Train for a few updates in two environments with random observations; return the model and the copies."""
    model_class, settings = MODELS[name]
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, action_space)] * 2)
    model = model_class("MlpPolicy", env, **{**settings, **kwargs})
    witness = Witness()
    model.learn(n_updates * 32, callback=[diagnostics, witness], log_interval=1)
    return model, witness
