"""Off-policy models of SB3 and of this package, with the same small networks and the same replay memory."""

from typing import Any

import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from support.small_environments import DEVICE

import sb3_pgx

NAMES = ("SAC", "TD3", "DDPG")  # which SB3 has, too
EVERY_NAME = (*NAMES, "D4PG", "SoftQLearning")
SMALL: dict[str, Any] = dict(learning_starts=8, batch_size=8, buffer_size=500, learning_rate=1e-3, seed=0, device=DEVICE)


def make(package: Any, name: str, env: Any = None, **kwargs: Any) -> Any:
    """Return a model of ``sb3`` or ``sb3_pgx`` with small networks, which compiles only if asked to."""
    policy_kwargs = {"net_arch": [16, 16], **kwargs.pop("policy_kwargs", {})}
    arguments = {**SMALL, "policy_kwargs": policy_kwargs, **kwargs}
    if package is sb3_pgx:
        arguments.setdefault("compile", False)
    policy = arguments.pop("policy", "MlpPolicy")
    env = make_vec_env("Pendulum-v1", 1, seed=0) if env is None else env
    return getattr(package, name)(policy, env, **arguments)


def both(name: str, env: Any = lambda: None, **kwargs: Any) -> tuple[Any, Any]:
    """Return SB3's model and ours."""
    ours = kwargs.pop("compile", False)
    return make(sb3, name, env(), **kwargs), make(sb3_pgx, name, env(), compile=ours, **kwargs)


def fill(model: Any, n: int = 200) -> Any:
    """Fill a model's replay memory with random transitions, the same ones for every model, and return the model."""
    random, buffer = np.random.default_rng(0), model.replay_buffer
    shape, n_actions = buffer.obs_shape, buffer.action_dim
    for _ in range(n):
        before, after = random.normal(size=(2, buffer.n_envs, *shape)).astype(np.float32)
        actions = random.uniform(-1, 1, (buffer.n_envs, n_actions)).astype(np.float32)
        rewards, ends = random.normal(size=buffer.n_envs), random.random(buffer.n_envs) < 0.1
        buffer.add(before, after, actions, rewards, ends, [{} for _ in range(buffer.n_envs)])
    model.set_logger(Logger(None, []))
    return model


def tensors(model: Any) -> dict[str, Any]:
    """Return all that a gradient step moves: parameters, targets, moments, step counts and the temperature."""
    found = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    optimizers = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach()
        optimizers["ent_coef"] = model.ent_coef_optimizer
    for name, optimizer in optimizers.items():
        for i, state in optimizer.state_dict()["state"].items():
            if state["step"] > 0:  # moments that are 0 may be there before the first step
                found |= {f"{name}.{i}.{key}": value for key, value in state.items()}
    return found


def assert_equal(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    """Check that two models hold the same numbers."""
    one, other = tensors(left), tensors(right)
    assert one.keys() == other.keys()
    for name, value in one.items():
        difference = (value.double() - other[name].double()).abs().max().item()
        assert difference <= tolerance, f"{name} differs by {difference}"
