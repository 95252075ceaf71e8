"""The states of a recurrent policy while it acts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor

from sb3_pgx.core.evaluation import predict_values
from sb3_pgx.core.mixed_spaces import action_shape
from sb3_pgx.core.policies import sampled_unchecked
from sb3_pgx.core.recurrence import State
from sb3_pgx.core.recurrent_evaluation import (
    acts_as_contribs,
    as_memory,
    is_recurrent,
    no_memory,
    one_level,
    recurrent_step,
    state_in,
)
from sb3_pgx.core.rollout import Memory, PolicyInputs


class BothStates(NamedTuple):
    """States of actor and critic as sb3-contrib's policies take them, ``[layers, N, H]`` each."""

    pi: State
    vf: State


class ActingMemory:
    """
    The states of a recurrent policy during one rollout. ``start`` are those before the first row, ``[N, layers, H]``.

    Acting needs the actor's states alone. The critic's follow from the evaluation of the rollout, unless values are needed at
    each step.

    :param policy: recurrent policy, in evaluation mode
    :param before: states after the last rollout; ``None``: none, as at the start of an episode
    :param n_envs: N, number of environments
    :param evaluates: whether values and log-probabilities are needed at each step
    """

    def __init__(self, policy: Any, before: Memory | None, n_envs: int, evaluates: bool):
        none = no_memory(policy, n_envs)
        fits = before is not None and _shapes(before) == _shapes(none)
        self.start, self.evaluates = before if before is not None and fits else none, evaluates
        names = [name for name in ("pi", "vf") if f"h_{name}" in none and (evaluates or name == "pi")]
        self._states = {name: state_in(self.start, name) for name in names}

    @property
    def states(self) -> Memory:
        """The states after the last action, ``[N, layers, H]``: the actor's, and the critic's if it was evaluated."""
        return as_memory(self._states)

    def needs_own_methods(self, policy: Any) -> bool:
        """Return whether the policy's own methods must act, because they differ, or because values are needed, too."""
        return self.evaluates or not acts_as_contribs(policy)

    def before(self, episode_starts: np.ndarray) -> list[Tensor]:
        """Return what the actor's step takes: in which environments an episode starts, ``[N]``, and the actor's state."""
        hidden, cell = self._states["pi"]
        return [th.as_tensor(np.asarray(episode_starts, bool), device=hidden.device), hidden, cell]

    def move(self, state: Sequence[Tensor]) -> None:
        """
        Keep the actor's state after a step.

        :param state: hidden and cell state, ``[N, layers, H]``
        """
        hidden, cell = state
        self._states["pi"] = hidden, cell

    def act(
        self, policy: Any, inputs: PolicyInputs, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Sample actions from the same random numbers as the policy's own methods, and move the states on.

        :param policy: recurrent policy in evaluation mode
        :param inputs: observations and action masks, ``[N, ...]``
        :param episode_starts: in which environments an episode starts and the state is reset, ``[N]``
        :return: actions ``[N, *action]``, not clipped; values and log-probabilities if they are needed, otherwise ``None``
        """
        act = self._act_by_own_methods if self.needs_own_methods(policy) else self._act_by_cells
        with th.no_grad():
            return sampled_unchecked(policy, inputs.action_masks, lambda: act(policy, inputs, episode_starts))

    def _act_by_cells(self, policy: Any, inputs: PolicyInputs, episode_starts: np.ndarray) -> tuple[Tensor, None, None]:
        """Act without torch's networks, which take longer for a single step."""
        resets, hidden, cell = self.before(episode_starts)
        distribution, after = recurrent_step(policy, inputs.observations, resets, (hidden, cell))
        actions = distribution.get_actions().reshape((-1, *action_shape(policy.action_space)))
        self.move(after)
        return actions, None, None

    def _act_by_own_methods(
        self, policy: Any, inputs: PolicyInputs, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        actor = _swapped(self._states["pi"])
        starts = th.as_tensor(episode_starts, dtype=th.float32, device=actor[0].device)
        if not self.evaluates:
            actions, state = policy._predict(inputs.observations, actor, starts)
            self.move(_swapped(state))
            return actions.reshape((-1, *action_shape(policy.action_space))), None, None
        both = BothStates(actor, _swapped(self._states["vf"]) if "vf" in self._states else actor)
        actions, values, log_probs, after = policy(inputs.observations, both, starts)
        self._states = {name: _swapped(getattr(after, name)) for name in self._states}
        return actions, values, log_probs

    def final_value(self, policy: Any, observation: Any, index: int) -> float:
        """
        Return V of the final observation of an episode that the last action ended, if values are needed at each step.

        :param policy: the recurrent policy
        :param observation: one observation
        :param index: index of the environment
        """
        states = {name: x[index : index + 1] for name, x in self.states.items()}
        inputs = PolicyInputs(policy.obs_to_tensor(observation)[0], memory=one_level(states))
        with th.no_grad():
            return predict_values(policy, inputs).item()


def acting_memory(policy: Any, before: Memory | None, n_envs: int, evaluates: bool) -> ActingMemory | None:
    """Return the states of a policy during a rollout; ``None`` if it is not recurrent. Arguments: :class:`ActingMemory`."""
    return ActingMemory(policy, before, n_envs, evaluates) if is_recurrent(policy) else None


def _swapped(state: State) -> State:
    """Exchange the environments and the layers, which come first in sb3-contrib's states."""
    return state[0].transpose(0, 1).contiguous(), state[1].transpose(0, 1).contiguous()


def _shapes(memory: Memory) -> dict[str, th.Size]:
    return {name: x.shape for name, x in memory.items()}
