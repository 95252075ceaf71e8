"""Acts for a rollout in the environments of one process, in step with the other processes."""

import copy
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_pgx.core.checks import Array
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.rollout import PolicyInputs, map_tensors
from sb3_pgx.core.spaces import environment_actions
from sb3_pgx.environments.action_masks import find_action_masks
from sb3_pgx.environments.gathered import to_send
from sb3_pgx.environments.gathered_rollouts import Steps
from sb3_pgx.parallel.processes import Processes
from sb3_pgx.stages.action_sampler import ActionSampler
from sb3_pgx.stages.guard import GuardedEnvironments
from sb3_pgx.stages.team import SharedNoise

_FAILED = -1


class Actor:
    """
    Acts in the environments of one process. All processes of the run call their actors at the same time.

    The parameters of the policy and the states of the random generators are those of the first process, and random numbers are
    drawn for the environments of all processes. So actions do not depend on the number of processes, but for rounding.

    :param model: of this process
    :param env: environments of this process
    :param processes: of the run
    """

    def __init__(self, model: Any, env: VecEnv, processes: Processes):
        self._model, self._env, self._processes = model, env, processes
        self._noise = SharedNoise(processes)
        self._masks = find_action_masks(env, model.observation_space, model.action_space) if model.use_masking else None

    def __call__(self, observations: Array, n_bytes: int, n_updates: int, compiled: bool) -> Steps | None:
        """
        Act for a rollout.

        :param observations: on which to act first, ``[n, *obs]``
        :param n_bytes: size of :func:`what_acting_needs` in the first process
        :param n_updates: number of updates so far
        :param compiled: whether to compile acting
        :return: the steps; ``None`` if another process has failed
        """
        model = self._model
        model._n_updates = n_updates
        self._follow_first(n_bytes)
        model._modules.train(model.policy, False)
        model._look()
        if model.use_sde:
            model._reset_noise(self._env, self._noise)
        error: Exception | None = None
        rollout = _Rollout(model, self._env, observations, self._masks, self._noise, compiled)
        try:
            rollout.complete()
        except Exception as raised:
            error = raised
        lengths = self._processes.concatenated(th.tensor([rollout.n_steps if error is None else _FAILED])).tolist()
        if error is not None:
            raise error
        if _FAILED in lengths:
            return None
        rollout.go_on(max(lengths))  # episodes end at different times, and until the last one all environments are stepped
        return rollout.steps

    def _follow_first(self, n_bytes: int) -> None:
        """Take over parameters and random numbers of the first process."""
        policy = self._model.policy
        own = what_acting_needs(policy)
        received = self._processes.broadcast(own if self._processes.is_first else th.empty(n_bytes, dtype=th.uint8))
        if len(own) != n_bytes:
            raise ValueError(
                f"the policy has {n_bytes} bytes in process 0 and {len(own)} bytes here: something changes its layers in one "
                'process alone, such as a callback. Use parallel="gather"'
            )
        if not self._processes.is_first:
            _restore(policy, received)


class _Rollout:
    """The rollout of one process. Arguments are those of :class:`Actor`, and what acts."""

    def __init__(self, model: Any, env: VecEnv, observations: Array, masks: Any, noise: SharedNoise, compiled: bool):
        self._model, self._observations, self._masks, self._noise = model, observations, masks, noise
        self._env, self._compiled = env, compiled
        self._guarded = GuardedEnvironments(env, None, model._n_updates, model._reset_later)
        self._recorder = Recorder(model.observation_space, model.action_space, env.num_envs, capacity=1)  # of the newest row
        self._sampler = ActionSampler(env.num_envs, model._n_updates, watched=False, team=noise)
        self._quota = model.quota(env, model.n_steps)
        self._starts = np.zeros(env.num_envs, dtype=bool)  # which only policies with memory need
        self.steps = Steps([], [], [], [], [], [])

    @property
    def n_steps(self) -> int:
        return len(self.steps.actions)

    def complete(self) -> None:
        """Act until these environments have contributed their part."""
        while not self._quota.count(self._act(), self._quota.contributing()):
            pass

    def go_on(self, n_steps: int) -> None:
        """Act until there are so many steps."""
        while self.n_steps < n_steps:
            self._act()

    def _act(self) -> np.ndarray:
        """Act once. Return which episodes have ended, ``[n]``."""
        model, t = self._model, self.n_steps
        model._renew_noise(self._env, t, self._noise)
        row = self._recorder.observe(self._observations)
        masks = None if self._masks is None else self._masks(self._observations, t)
        inputs = PolicyInputs(model._as_tensor(row), None if masks is None else model._as_tensor(masks))
        if t == 0 and self._compiled:
            self._sampler.compile(model.policy, model._acting_pass, model._modules, inputs)
        actions = self._sampler(model.policy, inputs, self._starts)[0].numpy(force=True).copy()
        taken = environment_actions(actions, model.policy, model.action_space)
        self._observations, rewards, dones, infos = self._guarded.step(taken, t)
        self.steps.observations.append(map_tensors(np.copy, self._observations))  # which the environments may overwrite
        self.steps.actions.append(actions)
        self.steps.rewards.append(np.array(rewards))
        self.steps.dones.append(dones)
        self.steps.infos.append(copy.deepcopy(to_send(infos)))
        if masks is not None:
            self.steps.masks.append(masks)
        return dones


def what_acting_needs(policy: Any) -> Tensor:
    """Return parameters and buffers of a policy, and the states of the random generators, as bytes."""
    tensors = [*policy.state_dict().values(), *_generators(policy.device)]
    return th.cat([x.detach().cpu().contiguous().reshape(-1).view(th.uint8) for x in tensors])


def _generators(device: th.device) -> list[Tensor]:
    return [th.get_rng_state(), *([th.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _restore(policy: Any, received: Tensor) -> None:
    tensors, generators = [*policy.state_dict().values()], _generators(policy.device)
    sizes = [x.numel() * x.element_size() for x in [*tensors, *generators]]
    parts = [part.clone() for part in received.split(sizes)]  # aligned for types of any size
    with th.no_grad():
        for tensor, part in zip(tensors, parts[: len(tensors)], strict=True):
            tensor.copy_(part.view(tensor.dtype).view(tensor.shape))
    th.set_rng_state(parts[len(tensors)])
    if policy.device.type == "cuda":
        th.cuda.set_rng_state(parts[-1], policy.device)
