"""The policy-gradient family for Stable-Baselines3."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_pgx.algorithms.a2c import A2C
from sb3_pgx.algorithms.a3c import A3C
from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.acktr import ACKTR
from sb3_pgx.algorithms.d4pg import D4PG
from sb3_pgx.algorithms.ddpg import DDPG
from sb3_pgx.algorithms.maddpg import MADDPG
from sb3_pgx.algorithms.npg import NPG
from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.algorithms.ppo_penalty import PPOPenalty
from sb3_pgx.algorithms.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.algorithms.sac import SAC
from sb3_pgx.algorithms.soft_q_learning import SoftQLearning
from sb3_pgx.algorithms.td3 import TD3
from sb3_pgx.algorithms.trpo import TRPO

if TYPE_CHECKING:
    from sb3_pgx.algorithms.maskable_ppo import MaskablePPO
    from sb3_pgx.algorithms.recurrent_ppo import RecurrentPPO

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "A3C",
    "ACER",
    "ACKTR",
    "D4PG",
    "DDPG",
    "MADDPG",
    "NPG",
    "PPO",
    "REINFORCE",
    "SAC",
    "TD3",
    "TRPO",
    "MaskablePPO",
    "PPOPenalty",
    "REINFORCEBaseline",
    "RecurrentPPO",
    "SoftQLearning",
]

# Algorithms with the interface of sb3-contrib, which is imported with them alone.
OF_CONTRIB = {"MaskablePPO": "sb3_pgx.algorithms.maskable_ppo", "RecurrentPPO": "sb3_pgx.algorithms.recurrent_ppo"}


def __getattr__(name: str) -> Any:
    if name in OF_CONTRIB:
        return getattr(import_module(OF_CONTRIB[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
