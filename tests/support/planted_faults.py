"""Faults to plant in a run, each with the rule of health that must find it; the documentation shows them as a table."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3 import TD3 as SB3TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm as SB3OffPolicy

from sb3_pgx import A2C, D4PG, DDPG, PPO, SAC, TD3, SoftQLearning

QUICK = dict(n_steps=32, batch_size=32, n_epochs=4, seed=0, device="cpu")
ONE_STEP = dict(n_steps=16, seed=0, device="cpu")
OFF_POLICY = dict(
    learning_starts=16, batch_size=16, buffer_size=5000, policy_kwargs=dict(net_arch=[16, 16]), seed=0, device="cpu"
)
EPISODE = 20  # steps after which episodes end where an off-policy algorithm is trained, which is measured then
N_ENVS = 4


class Changed(gym.Wrapper):
    """
    An environment with a fault.

    :param reward: function of reward and total number of steps that replaces the reward
    :param observation: function that replaces the observation
    :param hides_truncation: whether truncations are reported as terminations
    """

    def __init__(self, env: gym.Env, reward: Any = None, observation: Any = None, hides_truncation: bool = False):
        super().__init__(env)
        self.change_reward, self.change_observation, self.hides = reward, observation, hides_truncation
        self.total = 0

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        return self._observed(observation), info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.total += 1
        if self.change_reward is not None:
            reward = self.change_reward(reward, self.total)
        if self.hides:
            terminated, truncated = terminated or truncated, False
        return self._observed(observation), reward, terminated, truncated, info

    def _observed(self, observation: Any) -> Any:
        return observation if self.change_observation is None else self.change_observation(observation)


class Bandit(gym.Env):
    """Episodes of one step: the second action earns ``gain``, the first one nothing."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, gain: float):
        self.gain = gain

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(1, np.float32), self.gain * float(action), True, False, {}


def freeze_critic(model: Any) -> None:
    for name, p in model.policy.named_parameters():
        if "value" in name:
            p.requires_grad_(False)


def freeze_noise(model: Any) -> None:
    with th.no_grad():
        model.policy.value_net.weight *= 300.0
    freeze_critic(model)


def zero_gradients(model: Any) -> None:
    for p in model.policy.parameters():
        p.register_hook(lambda gradient: 0.0 * gradient)


def leave_dropout_on(model: Any) -> None:
    class Always(th.nn.Module):
        def forward(self, x: th.Tensor) -> th.Tensor:
            return th.nn.functional.dropout(x, 0.2, training=True)

    model.policy.mlp_extractor.policy_net.append(Always())


def silence_units(model: Any) -> None:
    with th.no_grad():
        for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
            net[0].bias[:] = -100.0


def hardly_explore(model: Any) -> None:
    with th.no_grad():
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias[:] = -5.0


@dataclass
class Fault:
    """
    A fault to plant in a run.

    :param rule: name of the rule that must fire
    :param within: number of measured updates within which it must fire
    :param algorithm: algorithm to train
    :param env: environment to train in, or ``"bandit"``
    :param changes: arguments of :class:`Changed`
    :param settings: arguments of the algorithm
    :param plant: function that changes the model before training
    :param health: arguments of ``HealthCallback``
    """

    rule: str
    within: int
    algorithm: Any = PPO
    env: str = "CartPole-v1"
    changes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    plant: Any = None
    health: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        """Return a model with the fault."""

        def make() -> gym.Env:
            return Changed(Bandit(1.0) if self.env == "bandit" else gym.make(self.env, **limit), **self.changes)

        limit = dict(max_episode_steps=EPISODE) if is_off_policy(self.algorithm) else {}
        env = make_vec_env(make, N_ENVS, seed=0)
        model = self.algorithm("MlpPolicy", env, **{**settings_of(self.algorithm), **self.settings})
        if self.plant is not None:
            self.plant(model)
        return model


def is_off_policy(algorithm: Any) -> bool:
    """Return whether an algorithm learns from a replay memory."""
    return issubclass(algorithm, SB3OffPolicy)


def steps_per_update(model: Any) -> int:
    """Return the number of environment steps from one measured update to the next."""
    return N_ENVS * (EPISODE if is_off_policy(type(model)) else model.n_steps)


def settings_of(algorithm: Any) -> dict[str, Any]:
    """Return settings of an algorithm for short runs in four environments."""
    if is_off_policy(algorithm):
        return dict(OFF_POLICY)
    if algorithm in (A2C, SB3A2C):
        return dict(ONE_STEP)
    return {name: value for name, value in QUICK.items() if algorithm is not ContribTRPO or name != "n_epochs"}


FAULTS = {
    "learning_rate × 300": Fault("steps too large", 2, settings=dict(learning_rate=300 * 3e-4)),
    "learning_rate × 300 (SB3's PPO)": Fault("steps too large", 2, SB3PPO, settings=dict(learning_rate=300 * 3e-4)),
    "learning_rate / 1000": Fault("steps too small", 10, settings=dict(learning_rate=3e-7)),
    "ent_coef 0, learning_rate × 10": Fault(
        "entropy collapse", 8, env="bandit", settings=dict(learning_rate=3e-3, ent_coef=0.0)
    ),
    "ent_coef 0, learning_rate × 1000": Fault(
        "premature determinism", 8, settings=dict(learning_rate=1000 * 3e-4, ent_coef=0.0)
    ),
    "initial standard deviation e⁻⁶": Fault(
        "Gaussian policy nearly deterministic", 3, env="Pendulum-v1", settings=dict(policy_kwargs=dict(log_std_init=-6.0))
    ),
    "ent_coef 10": Fault(
        "action noise grows", 30, env="Pendulum-v1", settings=dict(ent_coef=10.0, learning_rate=0.01, use_sde=False)
    ),
    "initial standard deviation e⁵": Fault(
        "actions out of bounds", 10, env="Pendulum-v1", settings=dict(policy_kwargs=dict(log_std_init=5.0))
    ),
    "clip_range 5, 20 epochs (Pendulum-v1)": Fault(
        "effective sample size too small",
        10,
        env="Pendulum-v1",
        settings=dict(clip_range=5.0, learning_rate=3e-3, n_epochs=20),
    ),
    # On CartPole, and with smaller learning rates, it depends on the seed whether ratios explode. Here they did for all of the
    # seeds 100 to 107, within 2 or 3 updates.
    "clip_range 5, 20 epochs, learning_rate 0.03 (Pendulum-v1)": Fault(
        "ratios explode",
        5,
        env="Pendulum-v1",
        settings=dict(clip_range=5.0, learning_rate=3e-2, n_epochs=20),
    ),
    "clip_range 0.001, learning_rate 0.01": Fault("too much clipping", 5, settings=dict(clip_range=0.001, learning_rate=0.01)),
    "batch_size 4": Fault("minibatches too small", 1, settings=dict(batch_size=4)),
    "critic frozen": Fault("critic does not move", 3, plant=freeze_critic),
    "critic frozen (SB3's A2C)": Fault("critic does not move", 3, SB3A2C, plant=freeze_critic),
    "critic frozen with large random values (SB3's PPO)": Fault(
        "critic worse than the mean", 22, SB3PPO, settings=dict(gamma=0.9), plant=freeze_noise
    ),
    "vf_coef 1e-4, rewards + 100": Fault(
        "critic lags behind",
        30,
        env="Pendulum-v1",
        changes=dict(reward=lambda r, t: r + 100.0),
        settings=dict(vf_coef=1e-4, gamma=0.9),
    ),
    "rewards × 1e6": Fault("returns too large", 2, changes=dict(reward=lambda r, t: 1e6 * r)),
    "rewards × 1e6 (same fault, other rule)": Fault("gradients explode", 2, changes=dict(reward=lambda r, t: 1e6 * r)),
    "rewards × 1e6 (sb3-contrib's TRPO)": Fault(
        "returns too large", 2, ContribTRPO, changes=dict(reward=lambda r, t: 1e6 * r), settings=dict(n_critic_updates=2)
    ),
    "rewards × 1e-6": Fault("rewards too small", 5, changes=dict(reward=lambda r, t: 1e-6 * r)),
    "rewards × 1e4 (A2C, advantages not normalised)": Fault(
        "advantages not normalised", 2, A2C, changes=dict(reward=lambda r, t: 1e4 * r)
    ),
    "gradients set to 0 (SB3's PPO)": Fault("gradients vanish", 3, SB3PPO, plant=zero_gradients),
    "rewards × 1e4 after 400 steps (A2C)": Fault(
        "gradients jump", 30, A2C, changes=dict(reward=lambda r, t: r * (1e4 if t > 400 else 1))
    ),
    "Dropout in evaluation mode (SB3's PPO)": Fault(
        "ratio differs from 1 before the first step", 1, SB3PPO, plant=leave_dropout_on
    ),
    "Dropout in evaluation mode": Fault("ratio differs from 1 before the first step", 1, PPO, plant=leave_dropout_on),
    "observations × 1e4": Fault("observations too large", 2, changes=dict(observation=lambda o: 1e4 * o)),
    "observations × 1e4 (same fault, other rule)": Fault("units saturated", 2, changes=dict(observation=lambda o: 1e4 * o)),
    "observations × 0": Fault("observations constant", 4, changes=dict(observation=lambda o: 0.0 * o)),
    "bias −100 in the first layers": Fault(
        "units dormant", 2, settings=dict(policy_kwargs=dict(activation_fn=th.nn.ReLU)), plant=silence_units
    ),
    "time limit reported as termination": Fault(
        "time limit not flagged", 25, env="Pendulum-v1", changes=dict(hides_truncation=True)
    ),
    "training reward opposite to the true objective": Fault(
        "reward hacked",
        25,
        env="bandit",
        settings=dict(learning_rate=1e-3, n_epochs=1),
        health=dict(eval_env=Bandit(-1.0), eval_every=1, n_eval_episodes=20),
    ),
    "learning_rate × 1000, tau 1 (DDPG)": Fault(
        "critics diverge", 5, DDPG, env="Pendulum-v1", settings=dict(learning_rate=1.0, tau=1.0)
    ),
    "learning_rate × 100 (TD3)": Fault("actions saturated", 8, TD3, env="Pendulum-v1", settings=dict(learning_rate=0.1)),
    "one gradient step per episode (SAC)": Fault(
        "replay ratio too low", 5, SAC, env="Pendulum-v1", settings=dict(train_freq=EPISODE)
    ),
    "learning_rate × 100 (SB3's TD3)": Fault(
        "actions saturated", 8, SB3TD3, env="Pendulum-v1", settings=dict(learning_rate=0.1)
    ),
    "batches of 4,096, five gradient steps per step (TD3)": Fault(
        "replay ratio too high", 4, TD3, env="Pendulum-v1", settings=dict(batch_size=4096, gradient_steps=5)
    ),
    "ent_coef 1e-8, initial standard deviation e⁻⁵ (SAC)": Fault(
        "temperature collapsed", 4, SAC, env="Pendulum-v1", settings=dict(ent_coef=1e-8), plant=hardly_explore
    ),
    "v_min −20 (D4PG)": Fault("returns beyond the support", 4, D4PG, env="Pendulum-v1", settings=dict(v_min=-20.0, v_max=0.0)),
    "ent_coef 1e-5 (SoftQLearning)": Fault(
        "soft values from too few actions", 6, SoftQLearning, env="Pendulum-v1", settings=dict(ent_coef=1e-5)
    ),
}
