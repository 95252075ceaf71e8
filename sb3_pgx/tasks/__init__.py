"""
Small environments that need memory, action masks, mixed actions, several agents or several ways to act, registered with
Gymnasium when this module is imported: ``gymnasium.make("sb3_pgx.tasks:Recall-v0")``,
``sb3-pgx compare ppo --env sb3_pgx.tasks:InvalidActions-v0``.
"""

import gymnasium as gym

from sb3_pgx.tasks.gripper import Gripper
from sb3_pgx.tasks.multi_goal import MultiGoal
from sb3_pgx.tasks.recall import InvalidActions, MaskedRecall, Recall

__all__ = ["Gripper", "InvalidActions", "MaskedRecall", "MultiGoal", "Recall"]

gym.register("Recall-v0", entry_point="sb3_pgx.tasks.recall:Recall")
gym.register("InvalidActions-v0", entry_point="sb3_pgx.tasks.recall:InvalidActions")
gym.register("MaskedRecall-v0", entry_point="sb3_pgx.tasks.recall:MaskedRecall")
gym.register("Gripper-v0", entry_point="sb3_pgx.tasks.gripper:Gripper", max_episode_steps=50)
gym.register("MultiGoal-v0", entry_point="sb3_pgx.tasks.multi_goal:MultiGoal", max_episode_steps=30)
# CartPole and Pendulum without velocities, under the names that rl_zoo3 gives them.
gym.register("CartPoleNoVel-v1", entry_point="sb3_pgx.tasks.no_velocity:cart_pole", max_episode_steps=500)
gym.register("PendulumNoVel-v1", entry_point="sb3_pgx.tasks.no_velocity:pendulum", max_episode_steps=200)
# Gymnasium's checker does not know that an action may be a dictionary by agent.
gym.register("SimpleSpread-v3", entry_point="sb3_pgx.tasks.spread:simple_spread", disable_env_checker=True)
