"""Checks that a vector environment returns what gymnasium's interface promises: NumPy would broadcast other shapes."""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from sb3_pgx.core.errors import one_line

OTHER_INTERFACE = (
    "it has the interface of another library, such as the old gym; adapt it to gymnasium's VectorEnv, or pass its "
    "environments to SB3's DummyVecEnv"
)


def check_vector_env(env: Any) -> None:
    """:raises ValueError: an environment is no vector environment of gymnasium, or its environments have different spaces"""
    if not isinstance(env, gym.vector.VectorEnv):
        raise ValueError(f"{type(env).__name__} has several environments, but is no VectorEnv: {OTHER_INTERFACE}")
    try:
        inspect.signature(env.reset).bind(seed=None, options=None)
    except TypeError:
        raise ValueError(f"{_name(env)}.reset does not take seed and options: {OTHER_INTERFACE}") from None
    for name in ("observation_space", "action_space"):
        single, batch = getattr(env, f"single_{name}"), getattr(env, name)
        if not _alike(batch, batch_space(single, env.num_envs)):
            raise ValueError(
                f"{type(env).__name__} has {name} {one_line(batch)}, which is not single_{name} {one_line(single)} for each "
                f"of {env.num_envs} environments; all environments must have the same spaces, and a wrapper that "
                f"changes {name} must change single_{name}, too"
            )


def _alike(space: spaces.Space, other: spaces.Space) -> bool:
    """Return whether spaces have the same members, whatever the type of the choices."""
    if isinstance(space, spaces.MultiDiscrete) and isinstance(other, spaces.MultiDiscrete):
        return np.array_equal(space.nvec, other.nvec) and np.array_equal(space.start, other.start)
    return space == other


class Returned:
    """
    Checks of what a vector environment returns. They take about 1 µs per step.

    :param env: the vector environment
    """

    def __init__(self, env: gym.vector.VectorEnv):
        self._name, self._space, self._shape = _name(env), env.observation_space, (env.num_envs,)
        is_dict = isinstance(self._space, spaces.Dict)
        self._shapes = {key: part.shape for key, part in self._space.items()} if is_dict else self._space.shape  # type: ignore[attr-defined]

    def of_reset(self, returned: Any) -> tuple[Any, dict[str, Any]]:
        """
        Return what ``reset`` has returned: observations and infos.

        :raises ValueError: it is something else
        """
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise self._other_interface("reset", returned, "observations and infos")
        observations, infos = returned
        return self._observations(observations), self._infos(infos)

    def of_step(self, returned: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """
        Return what ``step`` has returned: observations, rewards, terminations, truncations and infos, as arrays.

        :raises ValueError: it is something else, or there is not one of each per environment
        """
        if not (isinstance(returned, tuple) and len(returned) == 5):
            raise self._other_interface("step", returned, "observations, rewards, terminations, truncations and infos")
        observations, rewards, terminated, truncated, infos = returned
        rewards, terminated, truncated = np.asarray(rewards), np.asarray(terminated), np.asarray(truncated)
        if not rewards.shape == terminated.shape == truncated.shape == self._shape:
            raise ValueError(
                f"{self._name} returned rewards, terminations and truncations of shapes {rewards.shape}, {terminated.shape} "
                f"and {truncated.shape} instead of {self._shape}; return one of each per environment"
            )
        return self._observations(observations), rewards, terminated, truncated, self._infos(infos)

    def final_observation(self, infos: dict[str, Any], index: int) -> Any:
        """
        Return the final observation of an episode, from infos of the mode ``SAME_STEP``.

        :param infos: infos of the step that ended the episode
        :param index: the environment
        :raises ValueError: it is missing
        """
        observations = infos.get("final_obs")
        value = None if observations is None else row_of(observations, index)
        if value is None:
            raise ValueError(
                f"{self._name} resets in the step that ends an episode (AutoresetMode.SAME_STEP), but environment {index} "
                "ended one without its final observation: return it in infos['final_obs'], or use another mode"
            )
        return value

    def _infos(self, infos: Any) -> dict[str, Any]:
        if isinstance(infos, dict):
            return infos
        raise ValueError(f"{self._name} returned infos of type {type(infos).__name__} instead of a dictionary of arrays")

    def _observations(self, observations: Any) -> Any:
        try:
            if isinstance(observations, dict):
                shapes: Any = {key: part.shape for key, part in observations.items()}
            else:
                shapes = observations.shape
        except AttributeError:  # of a list
            shapes = None
        return observations if shapes == self._shapes else self._as_batch(observations, self._space, "observations")

    def _as_batch(self, observations: Any, space: spaces.Space, what: str) -> Any:
        """Return lists as arrays of the space's type, and a dictionary without parts that the space does not have."""
        if isinstance(space, spaces.Dict):
            if not (isinstance(observations, dict) and space.spaces.keys() <= observations.keys()):
                raise ValueError(
                    f"{self._name} returned {one_line(observations)[:80]} as {what}; return a dictionary of arrays with the "
                    f"keys {', '.join(map(repr, space.spaces))}"
                )
            return {key: self._as_batch(observations[key], part, f"{what} {key!r}") for key, part in space.spaces.items()}
        batch = observations if hasattr(observations, "shape") else _as_array(observations, space)
        if tuple(batch.shape) != space.shape:
            raise ValueError(
                f"{self._name} returned {what} of shape {tuple(batch.shape)} instead of {space.shape}, which its "
                "observation_space promises; neither the shape nor the number of environments may change"
            )
        return batch

    def _other_interface(self, function: str, returned: Any, expected: str) -> ValueError:
        n = f"{len(returned)} values" if isinstance(returned, tuple) else f"one {type(returned).__name__}"
        return ValueError(f"{self._name}.{function} returned {n} instead of a tuple of {expected}: {OTHER_INTERFACE}")


def row_of(observations: Any, index: int) -> Any:
    """
    Return a copy of the observation of one environment.

    :param observations: of all environments: an array, a dictionary of arrays, or one observation per environment
    :param index: the environment
    """
    if isinstance(observations, dict):
        return {key: np.array(part[index]) for key, part in observations.items()}
    value = observations[index]
    if isinstance(value, dict):
        return {key: np.array(part) for key, part in value.items()}
    return None if value is None else np.array(value)


def _as_array(observations: Any, space: spaces.Space) -> np.ndarray:
    try:
        return np.asarray(observations, space.dtype)
    except (TypeError, ValueError):  # no numbers, or rows of different lengths
        return np.asarray(None)


def _name(env: gym.vector.VectorEnv) -> str:
    return type(env.unwrapped).__name__
