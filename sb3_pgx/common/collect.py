"""Stepping the environment: what it sees of an action, when a rollout is complete, and where its rows are kept."""

from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.common.checks import Array, all_finite, environment_name
from sb3_pgx.common.rollout import Rollout, map_tensors
from sb3_pgx.common.undo import Refusal

HOST = th.device("cpu")  # where environments are


def moved(tensor: th.Tensor, device: th.device) -> th.Tensor:
    """``tensor.to(device)``, which also where there is nothing to do takes as long as an operation: twice in each step."""
    return tensor if tensor.device == device else tensor.to(device)


def clip_to_space(actions: np.ndarray, policy: ActorCriticPolicy, action_space: spaces.Space) -> np.ndarray:
    """The action that the environment sees: rescaled if the policy squashes it, clipped to the bounds otherwise."""
    if not isinstance(action_space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    return np.clip(actions, action_space.low, action_space.high)


class Quota(Protocol):
    """When a rollout is complete, and which environments still contribute to it."""

    whole_episodes: bool

    def contributing(self) -> np.ndarray:
        """Environments whose next row counts, boolean ``[N]``."""

    def count(self, dones: np.ndarray) -> bool:
        """Take note of a step; true when the rollout is complete."""


class StepQuota:
    """A fixed number of steps from every environment."""

    whole_episodes = False

    def __init__(self, n_steps: int, n_envs: int):
        self.remaining = n_steps
        self._all = np.ones(n_envs, dtype=bool)

    def contributing(self) -> np.ndarray:
        return self._all

    def count(self, dones: np.ndarray) -> bool:
        self.remaining -= 1
        return self.remaining <= 0


class EpisodeQuota:
    """
    A fixed number of whole episodes from every environment.

    The number is fixed for each environment, not for all together: the first k episodes to finish would be short ones.

    :param n_episodes: episodes from each environment
    :param env: the environment, for its name in the error
    :param max_episode_steps: length beyond which an episode is taken to be endless
    """

    whole_episodes = True

    def __init__(self, n_episodes: int, env: VecEnv, max_episode_steps: int):
        self.env, self.max_episode_steps = env, max_episode_steps
        self.missing = np.full(env.num_envs, n_episodes)
        self.lengths = np.zeros(env.num_envs, dtype=int)

    def contributing(self) -> np.ndarray:
        return self.missing > 0

    def count(self, dones: np.ndarray) -> bool:
        self.lengths += 1
        self.missing -= dones & (self.missing > 0)
        self.lengths[dones] = 0
        if self.lengths.max() >= self.max_episode_steps:
            index = int(self.lengths.argmax())
            raise Refusal(
                f"{environment_name(self.env, index)} has not ended its episode after {self.max_episode_steps} steps, and "
                "this algorithm learns from whole episodes. Wrap the environment in gymnasium.wrappers.TimeLimit, or raise "
                "max_episode_steps."
            )
        return not (self.missing > 0).any()


class Recorder:
    """
    Keeps the rows of a rollout on the host while it is collected, and hands them over as a :class:`Rollout`.

    :param observation_space: of one environment
    :param action_space: of one environment
    :param n_envs: N
    :param capacity: rows to make room for at first; it doubles when they are used up
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int, capacity: int):
        self.n_envs, self.size = n_envs, 0
        shapes = get_obs_shape(observation_space)
        if isinstance(observation_space, spaces.Dict):
            assert isinstance(shapes, dict)
            self.row_shapes: Any = {k: (n_envs, *shape) for k, shape in shapes.items()}
            self.observations: Any = {
                k: np.empty((capacity, *self.row_shapes[k]), space.dtype) for k, space in observation_space.spaces.items()
            }
        else:
            self.row_shapes = (n_envs, *shapes)
            self.observations = np.empty((capacity, *self.row_shapes), observation_space.dtype)
        self.actions = np.empty((capacity, n_envs, get_action_dim(action_space)), action_space.dtype)
        self.rewards = np.empty((capacity, n_envs), np.float32)
        self.flags = np.zeros((4, capacity, n_envs), bool)  # terminated, truncated, valid, episode start
        self.final_observations: list[Any] = []  # arrays, or dictionaries of them
        self.evaluated: list[tuple[th.Tensor, th.Tensor]] = []  # values and log-probabilities, if acting gave them

    def add(
        self,
        observations: Array,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
        valid: np.ndarray,
        episode_starts: np.ndarray,
        env: VecEnv,
    ) -> None:
        """
        Keep one row.

        :raises ValueError: an episode was truncated, and its final observation is missing
        """
        t = self.size
        if t == len(self.rewards):
            self._grow()
        if isinstance(observations, dict):
            for key, array in self.observations.items():
                array[t] = observations[key].reshape(self.row_shapes[key])
        else:
            self.observations[t] = observations.reshape(self.row_shapes)
        self.actions[t] = actions.reshape(self.actions.shape[1:])
        self.rewards[t] = rewards
        self.flags[2, t], self.flags[3, t] = valid, episode_starts
        for index in dones.nonzero()[0]:
            truncated = infos[index].get("TimeLimit.truncated", False)
            self.flags[1 if truncated else 0, t, index] = True
            if truncated:
                self.final_observations.append(self._final_observation(infos[index], env, int(index)))
        self.size += 1

    def rollout(self, last_observations: Array, device: th.device) -> Rollout:
        """
        :param last_observations: what the environments returned last, ``[N, *obs]``
        :param device: the model's
        :return: the rows so far, which on the CPU share this recorder's memory
        """

        def to_device(array: np.ndarray) -> th.Tensor:
            return th.from_numpy(array[: self.size]).to(device)

        terminated, truncated, valid, episode_starts = (to_device(f) for f in self.flags)
        rollout = Rollout(
            observations=map_tensors(to_device, self.observations),
            actions=to_device(self.actions),
            rewards=to_device(self.rewards),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            episode_starts=episode_starts,
            final_observations=self._stack_final(device),
            last_observations=self._as_tensors(last_observations, self.n_envs, device),
        )
        if self.evaluated:
            values, log_prob = zip(*self.evaluated, strict=True)
            rollout.values, rollout.log_prob = th.stack(values), th.stack(log_prob)
        return rollout

    def _final_observation(self, info: dict[str, Any], env: VecEnv, index: int) -> Array:
        """Where ``VecNormalize`` has clipped it, an infinite number can no longer be told from a large one."""
        observation = info.get("terminal_observation")
        if observation is None:
            raise Refusal(
                f"{environment_name(env, index)} was truncated without a terminal_observation in its info: the value of "
                "the state in which the episode was cut off is unknown. SB3's VecEnv classes provide it; a vectorised "
                "environment of your own must put it into info when it resets."
            )
        arrays = (
            {k: np.asarray(v) for k, v in observation.items()} if isinstance(observation, dict) else np.asarray(observation)
        )
        if not all_finite(arrays):
            raise Refusal(
                f"{environment_name(env, index)} was truncated with a final observation that is not finite, "
                f"at step {self.size} of this rollout: {observation}. "
                "Check the environment, or wrap it in a wrapper that clips it."
            )
        return observation

    def _stack_final(self, device: th.device) -> Any:
        if not self.final_observations:
            return None
        first = self.final_observations[0]
        if isinstance(first, dict):
            stacked: Array = {k: np.stack([o[k] for o in self.final_observations]) for k in self.observations}
        else:
            stacked = np.stack(self.final_observations)
        return self._as_tensors(stacked, len(self.final_observations), device)

    def _as_tensors(self, observations: Array, n: int, device: th.device) -> Any:
        def convert(values: np.ndarray, like: np.ndarray) -> th.Tensor:
            return th.as_tensor(np.reshape(values, (n, *like.shape[2:])).astype(like.dtype), device=device)

        if isinstance(observations, dict):
            return {k: convert(observations[k], array) for k, array in self.observations.items()}
        return convert(observations, self.observations)

    def _grow(self) -> None:
        def double(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array, np.empty_like(array)])

        self.observations = map_tensors(double, self.observations)
        self.actions, self.rewards = double(self.actions), double(self.rewards)
        self.flags = np.concatenate([self.flags, np.zeros_like(self.flags)], axis=1)
