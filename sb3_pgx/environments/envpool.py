"""EnvPool's environments, which step in C++, as a vector environment of gymnasium."""

import importlib
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

from sb3_pgx.core.errors import warn

INSTALL = "pip install envpool"


def is_envpool(env: Any) -> bool:
    """Return whether an environment was made by ``envpool.make``, without importing EnvPool."""
    return any(base.__module__.startswith("envpool.") for base in type(env).__mro__)


def library() -> ModuleType:
    """
    Import EnvPool.

    :raises ImportError: it is not installed; the message names the command
    """
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise ImportError(f"environments of EnvPool need the package envpool: {INSTALL}") from error


def make_envpool(env_id: str, n_envs: int, seed: int | None = None, **kwargs: Any) -> "EnvPoolVectorEnv":
    """
    Make environments of EnvPool.

    :param env_id: EnvPool's name of the environment
    :param n_envs: N, number of environments
    :param seed: of the environments; EnvPool's default if ``None``
    :param kwargs: further arguments of ``envpool.make``, such as ``num_threads`` (1 by default)
    :raises ImportError: EnvPool is not installed; the message names the command
    """
    envpool = library()
    arguments = {"num_threads": 1, **({} if seed is None else {"seed": seed}), **kwargs}
    return EnvPoolVectorEnv(envpool.make(env_id, env_type="gymnasium", num_envs=n_envs, **arguments))


class EnvPoolVectorEnv(gym.vector.VectorEnv):
    """
    Environments of EnvPool.

    EnvPool resets an environment in the step after an episode's end. Here that step never comes, since the caller resets the
    environments that have ended (``reset(options={"reset_mask": …})``), which EnvPool allows one by one.

    :param pool: made by ``envpool.make(..., env_type="gymnasium")``, with a batch of all environments
    :raises ValueError: it was made for another interface, or returns some of the environments at a time
    """

    def __init__(self, pool: Any):
        options = pool.spec.config._asdict()
        if "gymnasium" not in type(pool).__name__.lower():
            raise ValueError(f"{type(pool).__name__} has another interface: use envpool.make(..., env_type='gymnasium')")
        if options["batch_size"] not in (0, options["num_envs"]):
            raise ValueError(
                f"this EnvPool returns {options['batch_size']} of {options['num_envs']} environments at a time: leave out "
                "batch_size, so that all of them step together"
            )
        self.pool, self.seed = pool, options["seed"]
        self.num_envs = options["num_envs"]
        self.single_observation_space, self.single_action_space = pool.observation_space, pool.action_space
        self.observation_space = batch_space(pool.observation_space, self.num_envs)
        self.action_space = batch_space(pool.action_space, self.num_envs)
        self.metadata = {**getattr(pool, "metadata", {}), "autoreset_mode": "DISABLED"}
        self._observations: Any = None
        self._told = False

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if seed is not None and seed != self.seed and not self._told:
            self._told = True
            warn(f"EnvPool seeds environments when they are made: seed={seed} is ignored; use envpool.make(..., seed={seed})")
        if mask is None:
            self._observations, infos = self.pool.reset()
            return self._observations, infos
        rows = np.flatnonzero(mask).astype(np.int32)
        observations, _ = self.pool.reset(rows)
        self._observations = _with_rows(self._observations, observations, rows)
        return self._observations, {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._observations, rewards, terminated, truncated, infos = self.pool.step(actions)
        return self._observations, rewards, terminated.astype(bool), truncated.astype(bool), _without_players(infos)

    def close(self, **kwargs: Any) -> None:
        self.pool.close()


def _with_rows(observations: Any, new: Any, rows: np.ndarray) -> Any:
    """Return a copy of observations with some rows replaced: EnvPool may use the arrays again."""
    if isinstance(observations, dict):
        return {key: _with_rows(part, new[key], rows) for key, part in observations.items()}
    merged = np.array(observations)
    merged[rows] = new
    return merged


def _without_players(infos: dict[str, Any]) -> dict[str, Any]:
    """Return infos without those of the players of a game, which are no arrays over environments."""
    return {name: values for name, values in infos.items() if name != "players"}
