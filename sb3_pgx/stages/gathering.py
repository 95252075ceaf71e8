"""Processes of which the first one learns, from the environments of all."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_pgx.core.policies import can_act_from_noise
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import PolicyInputs
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.gathered_rollouts import GatheredRollouts
from sb3_pgx.parallel.same import check_same
from sb3_pgx.stages.action_sampler import ActionSampler
from sb3_pgx.stages.actor import Actor, what_acting_needs
from sb3_pgx.stages.team import Team, Train, agree, check_none, restore, state_of


class Gathering(Team):
    """
    One process acts and learns, the others step environments for it.

    :param env: the environments of all processes
    """

    def __init__(self, env: GatheredVecEnv):
        self.env, self.is_first = env, env.team.is_first

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        agree(self.env.team, model, total_timesteps)
        with self.env.team.learning(self.env):
            if self.is_first:
                train(callback)
                self.env.dismiss(state_of(model))
            else:
                restore(model, self.env.serve())
                model.begin_anew()  # a resumed run has been continued by the first process


class GatheringRollouts(Gathering):
    """
    Every process acts, in its own environments. The first one receives the rollouts and learns.

    :param env: the environments of all processes
    """

    env: GatheredRollouts

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        _check_acts(model, self.env)
        check_same(self.env.team, {"the device": model.device.type})
        self.env.act = Actor(model, self.env.own, self.env.team)
        if not self.is_first:
            model._logger = Logger(None, [])
        try:
            super().learn(model, train, callback, total_timesteps)
        finally:
            if self.env.steps_left:  # a callback has stopped in the middle of a rollout
                model._reset_later()
            self.env.forget()
            self.env.act = None

    def taken_actions(self, model: Any) -> Any:
        size = len(what_acting_needs(model.policy))
        try:
            actions = self.env.collect(model._last_obs, size, model._n_updates, model.compiled)
        except BaseException:
            model._reset_later()
            raise
        return TakenActions(self.env.num_envs, model._n_updates, actions, model.device)

    def reset_noise(self, policy: Any, n: int) -> None:
        """Do nothing: actors draw the noise."""


class TakenActions(ActionSampler):
    """
    Returns the actions of a rollout that processes have collected already.

    :param n_envs: N, number of environments
    :param n_updates: number of updates so far
    :param actions: what the processes sampled, ``[T, N, *action]``
    :param device: of the model
    """

    def __init__(self, n_envs: int, n_updates: int, actions: np.ndarray, device: th.device):
        super().__init__(n_envs, n_updates)
        self._actions = iter(th.from_numpy(actions).to(device))

    def can_be_compiled(self, policy: ActorCriticPolicy) -> bool:
        return False

    def check_follows_changes(self) -> None:
        raise RuntimeError(
            "a callback has changed the policy in the middle of a rollout, whose actions all processes have taken already: "
            'change it at the end of a rollout, or use parallel="gather"'
        )

    def _act(
        self, policy: ActorCriticPolicy, inputs: PolicyInputs, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return next(self._actions), None, None


def _check_acts(model: Any, env: GatheredRollouts) -> None:
    """:raises ValueError: this model cannot act in every process"""
    policy, buffer = type(model.policy).__name__, type(model.rollout_buffer).__name__
    reasons = {
        f"{policy} is recurrent, and its states would have to be gathered, too": is_recurrent(model.policy),
        f"{policy} samples actions in its own way, which would depend on the number of processes": (
            not can_act_from_noise(model.policy)
        ),
        f"{buffer}, a buffer of your own, needs values at each step": not isinstance(model.rollout_buffer, RolloutView),
        "these environments reset in the step after an episode's end, so that rollouts of some processes would be longer": (
            carrying_adapter(env) is not None
        ),
        "its environments have been wrapped again, on top of those of all processes": model.env is not env,
    }
    check_none(reasons, 'parallel="gather_rollouts" acts in every process')
