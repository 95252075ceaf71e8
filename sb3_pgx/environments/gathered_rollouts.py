"""Environments in which every process of a run acts: the first process receives whole rollouts, and steps through them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_pgx.environments.action_masks import METHOD
from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.spread import ActingShare


class Steps(NamedTuple):
    """Steps of n environments, in order."""

    observations: list[VecEnvObs]  # that each step returned, [n, *obs]
    actions: list[np.ndarray]  # as the policy sampled them, [n, *action]
    rewards: list[np.ndarray]  # [n]
    dones: list[np.ndarray]  # [n]
    infos: list[Any]
    masks: list[np.ndarray]  # which actions were valid, [n, M]; empty if no actions are masked


class GatheredRollouts(GatheredVecEnv):
    """
    N environments of which every process of the run has N / size, and acts in them: :meth:`collect` lets all processes act for
    a rollout. Afterwards, each ``step`` returns what the environments returned in the next step of that rollout.

    :param own: the environments of this process, with their wrappers
    :param share: the part of ``own`` that belongs to this process
    """

    connections = (*GatheredVecEnv.connections, "act")

    def __init__(self, own: VecEnv, share: ActingShare):
        super().__init__(own, share.team)
        self.act: Callable[..., Steps | None] | None = None  # acts in this process's environments; `learn` sets it
        self._rollout: list[np.ndarray] = []  # observations by part, rewards, dones and perhaps masks, [T, N, ...]
        self._infos: list[dict[int, Any]] = []  # by process, then by step; ordinary ones are left out
        self._step = self._n_steps = 0

    def collect(self, observations: VecEnvObs, *arguments: Any) -> np.ndarray:
        """
        Let all processes act for a rollout.

        :param observations: on which they act first, ``[N, *obs]``
        :param arguments: of ``act``, after the observations
        :return: the actions that they took, ``[T, N, *action]``
        """
        parts, self._infos = self._called("rollout", self._flattened(observations), *arguments)
        actions, *self._rollout = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in parts]  # [N, T, ...] -> [T, N, ...]
        self._step, self._n_steps = 0, len(actions)
        return actions

    @property
    def steps_left(self) -> int:
        """Number of steps of the last rollout that have not been returned."""
        return self._n_steps - self._step

    def forget(self) -> None:
        """Forget the last rollout, so that ``step`` steps the environments themselves."""
        self._step = self._n_steps = 0
        self._rollout, self._infos = [], []

    def reset(self) -> VecEnvObs:
        self.forget()
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        if not self.steps_left:
            return super().step_wait()
        t, n_parts = self._step, self._n_parts
        self._step += 1
        *parts, rewards, dones = [x[t] for x in self._rollout[: n_parts + 2]]
        return self._unflattened(parts), rewards, dones, self._joined_infos([infos.get(t) for infos in self._infos])

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        if method_name == METHOD and self.steps_left and len(self._rollout) > self._n_parts + 2:
            masks = self._rollout[-1][self._step]
            return [masks[i] for i in self._indices(indices)]
        return super().env_method(method_name, *args, indices=indices, **kwargs)

    @property
    def _n_parts(self) -> int:
        """Number of arrays of which an observation consists."""
        return len(getattr(self.observation_space, "spaces", ((),)))

    def _own_rollout(self, *given: Any) -> tuple[list[np.ndarray], Any]:
        assert self.act is not None, "only learn collects"
        n = self._n_parts
        steps = self.act(self._unflattened(given[:n]), *given[n:])
        if steps is None:  # another process has failed
            return [], {}
        observations = zip(*map(self._flattened, steps.observations), strict=True)
        parts = [steps.actions, *observations, steps.rewards, steps.dones, *([steps.masks] if steps.masks else [])]
        return [np.stack(x, axis=1) for x in parts], {t: infos for t, infos in enumerate(steps.infos) if infos is not None}


def with_rollouts_gathered(env: VecEnv) -> VecEnv:
    """
    Return environments that are to be gathered by rollout as those of all processes. Others are returned as they are.

    :param env: environments of this process, with their wrappers
    :raises ValueError: ``VecNormalize`` is among the wrappers
    """
    inner = env
    while isinstance(inner, VecEnvWrapper) and not isinstance(inner, ActingShare):
        inner = inner.venv
    if not isinstance(inner, ActingShare):
        return env
    if unwrap_vec_normalize(env) is not None:
        raise ValueError(
            'parallel="gather_rollouts" acts in every process, in which VecNormalize would normalise with statistics of that '
            'process alone: use parallel="gather", or normalise in the environments'
        )
    return GatheredRollouts(env, inner)
