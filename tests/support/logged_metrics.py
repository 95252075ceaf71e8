"""Find out by training which metrics each algorithm logs, and generate the documentation's table of them."""

from functools import cache
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from support.models import make
from support.small_environments import AnySpace, vectorised

from sb3_pgx.diagnostics.metrics import TRAINING_METRICS
from sb3_pgx.engine.compiler import using_backend
from sb3_pgx.registry import EVERY_ALGORITHM, OFF_POLICY

# Arguments with which an algorithm logs additional metrics.
OPTIONS: dict[str, dict[str, Any]] = {
    "d4pg": dict(prioritized_replay_alpha=0.6),
    "npg": dict(critic="trust_region"),
    "ppo": dict(clip_range_vf=0.2),
    "ppo_penalty": dict(clip_range=0.2),
    "sac": dict(use_sde=True),
    "trpo": dict(critic="trust_region"),
}


class ReportsSuccess(gym.Wrapper):
    """An environment that reports a success at the end of each episode."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "is_success": True} if truncated or terminated else info


class KeyCollector(KVWriter):
    """A log writer that keeps the keys and ignores the numbers."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.keys |= key_values.keys()

    def close(self) -> None:
        pass


@cache
def logged_by(name: str) -> frozenset[str]:
    """Return every key that an algorithm logs with each kind of actions, compiled and not, and with its options."""
    box = spaces.Box(-1, 1, (3,), "float32")
    writer = KeyCollector()
    discrete = () if name in OFF_POLICY else ((spaces.Discrete(3), {}),)
    for actions, options in (*discrete, (box, {}), (box, OPTIONS.get(name, {}))):
        envs = vectorised(*(Monitor(ReportsSuccess(AnySpace(box, actions))) for _ in range(2)))
        model = make(name, envs, policy_kwargs=dict(net_arch=[4]), compile=name in OFF_POLICY or actions != box, **options)
        model.set_logger(Logger(None, [writer]))
        with using_backend(lambda graph, examples: graph):
            model.learn(24, log_interval=1)
        model.logger.dump()  # the last update
        envs.close()
    return frozenset(writer.keys)


def table() -> str:
    """Return the documentation's table: each key, its meaning, and the algorithms that log it."""
    logged = {cls.__name__: logged_by(name) for name, cls in EVERY_ALGORITHM.items()}
    rows = [
        f"| `{key}` | {meaning.replace('|', '&#124;')} | {_who_logs(key, logged)} |"
        for key, meaning in TRAINING_METRICS.items()
    ]
    return "\n".join(["| metric | meaning | logged by |", "|---|---|---|", *rows])


def _who_logs(key: str, logged: dict[str, frozenset[str]]) -> str:
    names = [name for name, keys in logged.items() if key in keys]
    others = [name for name in logged if name not in names]
    if len(others) > 2:
        return ", ".join(f"`{name}`" for name in names)
    return "all" + (" but " + " and ".join(f"`{name}`" for name in others) if others else "")
