"""Values and log-probabilities of a step, computed when a callback first reads them: most callbacks never do."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_pgx.core.checks import Array
from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.rollout import map_tensors
from sb3_pgx.core.spaces import check_choices


class Deferred(Tensor):
    """A tensor whose numbers are computed at its first use, whatever that is. Until then it holds NaN."""

    _compute: Callable[[], Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map(_computed, args), **{name: _computed(value) for name, value in (kwargs or {}).items()})


def _computed(value: Any) -> Any:
    if isinstance(value, Deferred):
        return value._compute()
    return type(value)(map(_computed, value)) if type(value) in (list, tuple) else value


class StepEvaluation:
    """
    What the policy that acts says of the step that it takes.

    :param policy: in evaluation mode
    :param observations: that it acts on, ``[N, *obs]``
    :param actions: that it has sampled, ``[N, *action]``
    """

    def __init__(self, policy: ActorCriticPolicy, observations: Array, actions: np.ndarray):
        self.policy = policy
        self.observations, self.actions = map_tensors(np.copy, observations), actions.copy()
        self._result: tuple[Tensor, Tensor] | None = None

    @property
    def deferred(self) -> tuple[Tensor, Tensor]:
        """V(s), ``[N, 1]``, and log π(a|s), ``[N]``, as SB3's policies return them."""
        values, log_prob = (x.as_subclass(Deferred) for x in _nothing(len(self.actions), self.policy.device))
        values._compute = lambda: self.computed()[0]
        log_prob._compute = lambda: self.computed()[1]
        return values, log_prob

    def computed(self) -> tuple[Tensor, Tensor]:
        """Return both, computed once; what is written into them stays."""
        if self._result is None:
            observations = obs_as_tensor(self.observations, self.policy.device)
            actions = th.as_tensor(self.actions.reshape(len(self.actions), -1), device=self.policy.device)
            check_choices(actions, self.policy.action_space)  # somebody may have changed them
            with th.no_grad():
                values, log_prob, _, _ = evaluate_actions(self.policy, observations, actions)
            self._result = values[:, None], log_prob
        return self._result

    def settle(self, values: Tensor, log_prob: Tensor) -> None:
        """
        Keep the numbers of the evaluated rollout for whoever reads them later, unless they have been read already.

        :param values: V(s), ``[N]``
        :param log_prob: log π(a|s), ``[N]``
        """
        if self._result is None:
            self._result = values[:, None].clone(), log_prob.clone()

    def to_keep(self, observations: Array, actions: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """
        Return what evaluating the rollout later would not find any more, as it stands after ``on_step``: what somebody has
        read and may have written to, and what belongs to observations or actions that somebody has changed since.

        :param observations: as they are now, ``[N, *obs]``
        :param actions: as they are now, ``[N, *action]``
        """
        if self._result is None and np.array_equal(self.actions, actions) and _same(self.observations, observations):
            return None
        return self.computed()


def may_read_locals(callback: BaseCallback) -> bool:
    """Return whether a callback is more than what stands where the user has given none."""
    if type(callback) is CallbackList:
        return any(map(may_read_locals, callback.callbacks))
    return type(callback) is not ConvertCallback or callback.callback is not None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(np.array_equal(one[key], other[key]) for key in one)
    return np.array_equal(one, other)


@cache
def _nothing(n: int, device: th.device) -> tuple[Tensor, Tensor]:
    return th.full((n, 1), th.nan, device=device), th.full((n,), th.nan, device=device)
