"""Values and log-probabilities of a step, computed when a callback first reads them. Most callbacks never do."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_pgx.core.checks import Array
from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.rollout import PolicyInputs, map_tensors
from sb3_pgx.core.spaces import check_choices

ONLY_READ = (CheckpointCallback, EvalCallback, ProgressBarCallback, StopTrainingOnMaxEpisodes)  # of SB3's callbacks


class Deferred(Tensor):
    """A tensor whose numbers are computed at its first use in any torch function. Until then it holds NaN."""

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
    Values and log-probabilities of one step, computed on demand.

    :param policy: policy that acts, in evaluation mode
    :param observations: observations on which it acts, ``[N, *obs]``
    :param actions: actions that it has sampled, ``[N, *action]``
    :param action_masks: which actions were valid, ``[N, M]``; ``None``: all of them
    """

    def __init__(
        self, policy: ActorCriticPolicy, observations: Array, actions: np.ndarray, action_masks: np.ndarray | None = None
    ):
        self.policy = policy
        self.observations, self.actions = map_tensors(np.copy, observations), actions.copy()
        self._masks = action_masks
        self._result: tuple[Tensor, Tensor] | None = None

    @property
    def deferred(self) -> tuple[Tensor, Tensor]:
        """Return V(s), ``[N, 1]``, and log π(a|s), ``[N]``, as tensors that are computed at their first use."""
        values, log_prob = (x.as_subclass(Deferred) for x in _nothing(len(self.actions), self.policy.device))
        values._compute = lambda: self.computed()[0]
        log_prob._compute = lambda: self.computed()[1]
        return values, log_prob

    def computed(self) -> tuple[Tensor, Tensor]:
        """Return V(s) and log π(a|s). They are computed once, so later calls return what a callback has written into them."""
        if self._result is None:
            observations = obs_as_tensor(self.observations, self.policy.device)
            actions = th.as_tensor(self.actions.reshape(len(self.actions), -1), device=self.policy.device)
            check_choices(actions, self.policy.action_space)  # somebody may have changed them
            masks = None if self._masks is None else th.as_tensor(self._masks, device=self.policy.device)
            with th.no_grad():
                values, log_prob, _, _ = evaluate_actions(self.policy, PolicyInputs(observations, masks), actions)
            self._result = values[:, None], log_prob
        return self._result

    def settle(self, values: Tensor, log_prob: Tensor) -> None:
        """
        Take the results from the evaluated rollout, unless a callback has read them before.

        :param values: V(s), ``[N]``
        :param log_prob: log π(a|s), ``[N]``
        """
        if self._result is None:
            self._result = values[:, None].clone(), log_prob.clone()

    def to_keep(self, observations: Array, actions: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """
        Return the results if they must be kept after ``on_step``, because evaluating the whole rollout later could give
        others: a callback has read them and may have written to them, or it has changed the observations or actions.

        :param observations: observations after ``on_step``, ``[N, *obs]``
        :param actions: actions after ``on_step``, ``[N, *action]``
        :return: V(s) and log π(a|s), or ``None`` if the later evaluation gives the same
        """
        if self._result is None and np.array_equal(self.actions, actions) and _same(self.observations, observations):
            return None
        return self.computed()


def may_read_locals(callback: BaseCallback) -> bool:
    """Return whether the user has passed a callback. SB3 replaces ``None`` by an empty one."""
    if type(callback) is CallbackList:
        return any(map(may_read_locals, callback.callbacks))
    return type(callback) is not ConvertCallback or callback.callback is not None


def may_change(callback: BaseCallback) -> bool:
    """
    Return whether a callback may write into a step or change the policy. The callbacks of SB3 that only read, those of this
    package that say so (``only_reads``), and lists of such are known not to. A subclass is not: it may do anything.
    """
    kind = type(callback)
    if type(callback) is CallbackList:
        return any(map(may_change, callback.callbacks))
    only_reads = kind in ONLY_READ or vars(kind).get("only_reads", False)
    if only_reads and isinstance(callback, EvalCallback):
        return any(child is not None and may_change(child) for child in (callback.callback, callback.callback_on_new_best))
    return may_read_locals(callback) and not only_reads


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(np.array_equal(one[key], other[key]) for key in one)
    return np.array_equal(one, other)


@cache
def _nothing(n: int, device: th.device) -> tuple[Tensor, Tensor]:
    return th.full((n, 1), th.nan, device=device), th.full((n,), th.nan, device=device)
