"""A vector environment of gymnasium behind the interface of SB3's ``VecEnv``."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_pgx.environments.agents_vec_env import AgentsVecEnv
from sb3_pgx.environments.array_infos import ArrayInfos, info_of
from sb3_pgx.environments.autoreset import SAME_STEP, autoreset_mode, resets_rows_alone
from sb3_pgx.environments.carrying import Carrying
from sb3_pgx.environments.envpool import EnvPoolVectorEnv, is_envpool
from sb3_pgx.environments.parallel_env import has_agents
from sb3_pgx.environments.returned import Returned, check_vector_env, row_of

MIXED_FRAMES = "VecFrameStack would mix the frames of two episodes"  # where some steps only reset


def is_vector_env(env: Any) -> bool:
    """
    Return whether several environments, or several agents, step in one call, but not through SB3's interface:
    :func:`as_vec_env` takes them.
    """
    return is_envpool(env) or (not isinstance(env, VecEnv | gym.Env) and (hasattr(env, "num_envs") or has_agents(env)))


def as_vec_env(env: Any) -> "VectorEnvAdapter | AgentsVecEnv":
    """
    Put a vector environment of gymnasium or of EnvPool, or the agents of an environment of PettingZoo, behind SB3's interface.
    The algorithms of this package do so themselves; functions of SB3, such as ``evaluate_policy``, and its wrappers, such as
    ``VecNormalize``, need it.

    :param env: a vector environment in any of gymnasium's autoreset modes, the result of ``envpool.make``, or an environment
        with PettingZoo's parallel API (:class:`~sb3_pgx.environments.agents_vec_env.AgentsVecEnv`, which takes several copies)
    :raises ValueError: its interface is another library's, its environments or agents have different spaces, its mode is
        unknown, or it resets no environment at all
    """
    if has_agents(env):
        return AgentsVecEnv([lambda: env])
    return VectorEnvAdapter(EnvPoolVectorEnv(env) if is_envpool(env) else env)


class VectorEnvAdapter(VecEnv, Carrying):
    """
    A vector environment of gymnasium as SB3's ``VecEnv``: all environments step in one call, on arrays.

    Episodes' returns and lengths are counted here, and reported as ``info["episode"]`` as SB3's ``Monitor`` does.

    An environment whose episode has ended is reset in the same step. Where it cannot be (in gymnasium's mode ``NEXT_STEP``,
    if single environments cannot be reset), its next step only resets it, as
    :class:`~sb3_pgx.environments.carrying.Carrying` tells. The algorithms of this package neither learn from these steps nor
    count them. ``VecEnv`` has no notion of them, so other readers see a step with reward 0.

    :param env: the vector environment
    :raises ValueError: its autoreset mode is unknown; it resets no environment itself, and cannot reset single ones; or it
        does not have gymnasium's interface
    """

    def __init__(self, env: gym.vector.VectorEnv):
        check_vector_env(env)
        self.vector_env, self._returned = env, Returned(env)
        self._mode = autoreset_mode(env)
        self._resets_rows = self._mode != SAME_STEP and resets_rows_alone(env, self._mode)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata
        self.carries, self.kind = self._mode != SAME_STEP and not self._resets_rows, type(env.unwrapped).__name__
        self.follow_reset()
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=int)
        self._start = time.time()
        self._actions: Any = None

    # ------------------------------------------------------------------------------------------------ steps

    def reset(self) -> VecEnvObs:
        options = next((options for options in self._options if options), None)
        seed: Any = _seed(self._seeds)
        observations, infos = self._returned.of_reset(self.vector_env.reset(seed=seed, options=options))
        self.reset_infos = [info_of(infos, i) for i in range(self.num_envs)]
        self.follow_reset()
        self._returns[:], self._lengths[:] = 0.0, 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = self._batched(actions) if isinstance(self.action_space, spaces.Dict | spaces.Tuple) else actions

    def _batched(self, actions: Iterable[Any]) -> Any:
        """Return one dictionary or tuple of arrays, which a vector environment takes, instead of N of them."""
        empty: Any = create_empty_array(self.action_space, self.num_envs)
        return concatenate(self.action_space, actions, empty)

    def step_wait(self) -> VecEnvStepReturn:
        returned = self.vector_env.step(self._actions)
        observations, rewards, terminated, truncated, arrays = self._returned.of_step(returned)
        dones = np.logical_or(terminated, truncated)
        infos = ArrayInfos(arrays, self.num_envs)
        self.follow_step(dones)
        if self.carries:
            rewards = np.where(self.rewarded, rewards, 0.0)
        self._returns += rewards
        self._lengths += self.rewarded
        ended = dones.nonzero()[0]
        if len(ended):
            for i in ended.tolist():
                infos.ended[i] = {
                    "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                    "terminal_observation": self._final_observation(observations, arrays, i),
                    "episode": self._statistics(i),
                }
            self._returns[ended], self._lengths[ended] = 0.0, 0
            if self._resets_rows:
                observations = self._reset_rows(dones, ended)
            elif self._mode == SAME_STEP:
                for i in ended.tolist():
                    self.reset_infos[i] = info_of(arrays, i)
        return observations, np.asarray(rewards, np.float32), dones, infos  # type: ignore[return-value]

    def _reset_rows(self, dones: np.ndarray, ended: np.ndarray) -> Any:
        observations, infos = self._returned.of_reset(self.vector_env.reset(options={"reset_mask": dones.copy()}))
        for i in ended.tolist():
            self.reset_infos[i] = info_of(infos, i)
        return observations

    def _final_observation(self, observations: Any, arrays: dict[str, Any], index: int) -> Any:
        if self._mode == SAME_STEP:
            return self._returned.final_observation(arrays, index)
        return row_of(observations, index)

    def _statistics(self, index: int) -> dict[str, Any]:
        elapsed = round(time.time() - self._start, 6)
        return {"r": round(float(self._returns[index]), 6), "l": int(self._lengths[index]), "t": elapsed}

    # ------------------------------------------------------------------------------------------------ the rest of VecEnv

    def close(self) -> None:
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames: Any = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        of_each = getattr(self.vector_env, "get_attr", None)
        if attr_name == "render_mode" or of_each is None:
            values: Sequence[Any] = [getattr(self.vector_env, attr_name)] * self.vector_env.num_envs
        else:
            values = of_each(attr_name)
        return [values[i] for i in self._indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        # The environments are asked whether they have it: a worker that is asked for what it lacks stops.
        if not hasattr(self.vector_env, "call"):
            return hasattr(self.vector_env, attr_name)
        return all(self.vector_env.call("has_wrapper_attr", attr_name))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._needs("set_attr", attr_name)
        values = list(self.get_attr(attr_name))
        for i in self._indices(indices):
            values[i] = value
        self.vector_env.set_attr(attr_name, values)  # type: ignore[attr-defined]

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        chosen = list(self._indices(indices))
        if len(chosen) < self.num_envs:
            raise ValueError(f"{method_name} can be called in all environments of a VectorEnv only, not in {chosen} alone")
        if not hasattr(self.vector_env, "call") and hasattr(self.vector_env, method_name):
            return list(getattr(self.vector_env, method_name)(*args, **kwargs))  # its own method, for all of them at once
        self._needs("call", method_name)
        return list(self.vector_env.call(method_name, *args, **kwargs))  # type: ignore[attr-defined]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """True for ``Monitor``, whose statistics this adapter provides; false for all others, since it cannot see them."""
        return [issubclass(wrapper_class, Monitor)] * len(list(self._indices(indices)))

    def _indices(self, indices: VecEnvIndices) -> Iterable[int]:
        if indices is None:
            return range(self.vector_env.num_envs)
        return [indices] if isinstance(indices, int) else indices

    def _needs(self, method: str, name: str) -> None:
        if not hasattr(self.vector_env, method):
            raise AttributeError(f"{type(self.vector_env).__name__} cannot reach into single environments, as {name} would")


def _seed(seeds: Sequence[int | None]) -> int | list[int | None] | None:
    """Return seeds as a vector environment takes them: not all take a list."""
    first = seeds[0]
    if first is not None and list(seeds) == list(range(first, first + len(seeds))):
        return first
    return list(seeds) if any(seed is not None for seed in seeds) else None
