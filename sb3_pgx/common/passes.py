"""A policy's passes without gradients, for acting and for the evaluation of a rollout, compiled where that is wanted."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.compiling import Compiled, NotCompilable, compile_function, signature
from sb3_pgx.common.distributions import has_one_hot, one_hot, sample_with
from sb3_pgx.common.functional import PolicyFunction, check_traceable
from sb3_pgx.common.rollout import Observations, as_policy_input

# A longer rollout is bound by arithmetic, and not worth a graph.
MAX_EVALUATED_ROWS = 512


def acting_pass(tell: Callable[[str], None]) -> "CompiledPass":
    """From :func:`~sb3_pgx.common.distributions.noise` and observations ``[N, *obs]`` to actions ``[N, *action]``."""
    return CompiledPass(_actions, tell, "acting")


def evaluation_pass(tell: Callable[[str], None]) -> "CompiledPass":
    """From actions ``[B, action_dim]``, observations ``[B, *obs]`` and last observations to values, log π and last values."""
    return CompiledPass(_evaluation, tell, "the evaluation of a rollout")


def _actions(policy: ActorCriticPolicy, noise: Tensor, *tensors: Tensor) -> tuple[Tensor]:
    actions = sample_with(policy.get_distribution(as_observations(policy, tensors)), noise)
    return (actions.reshape((-1, *policy.action_space.shape)),)  # type: ignore[misc]


def _evaluation(policy: ActorCriticPolicy, actions: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    middle = len(tensors) // 2
    observations, last = (as_observations(policy, part) for part in (tensors[:middle], tensors[middle:]))
    values, log_prob, _ = policy.evaluate_actions(observations, as_policy_input(actions, policy.action_space))
    return values.flatten(), log_prob.flatten(), policy.predict_values(last).flatten()


def as_tensors(policy: ActorCriticPolicy, observations: Observations) -> list[Tensor]:
    """Observations as a pass takes them: in the order and of the types of the space, one-hot encoded."""
    space = policy.observation_space
    if has_one_hot(space):
        observations = one_hot(observations, space)
    if isinstance(space, spaces.Dict):
        return [_typed(observations[key], part) for key, part in space.spaces.items()]  # type: ignore[index]
    return [_typed(observations, space)]  # type: ignore[arg-type]


def _typed(observation: Tensor, space: spaces.Space) -> Tensor:
    """What the environment returned may be of another type than its space says: a graph takes one type."""
    return observation if has_one_hot(space) else observation.to(_torch_type(space.dtype))


@cache
def _torch_type(dtype: Any) -> th.dtype:
    return th.from_numpy(np.empty(0, dtype)).dtype


def as_observations(policy: ActorCriticPolicy, tensors: Sequence[Tensor]) -> Observations:
    """The way back."""
    space = policy.observation_space
    return dict(zip(space.spaces, tensors, strict=True)) if isinstance(space, spaces.Dict) else tensors[0]


class CompiledPass:
    """
    One pass of a policy, with the policy's parameters as they are at each call.

    :param function: of the policy and tensors, to a tuple of tensors; pure
    :param tell: takes one sentence about compiling
    :param what: the pass, in that sentence
    """

    def __init__(self, function: Callable[..., Any], tell: Callable[[str], None], what: str):
        self.function, self.tell, self.what = function, tell, what
        self._structure: Any = None
        self._named: dict[str, Tensor] = {}
        self._parameters: list[Tensor] = []
        self._graph: Compiled | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_structure": None, "_named": {}, "_parameters": [], "_graph": None}

    def prepare(
        self,
        policy: ActorCriticPolicy,
        version: int,
        inputs: Sequence[Tensor],
        others: Callable[[], Sequence[Tensor]] = tuple,
    ) -> bool:
        """
        Before a rollout: look whether anything has changed but the values of the parameters.

        :param policy: in evaluation mode
        :param version: of its layers, from :class:`~sb3_pgx.common.modules.Modules`
        :param inputs: such as those to come; their values do not matter
        :param others: gives what comes before them and is always the same but for its values
        :return: whether the pass is compiled
        """
        if self._structure is None or self._structure[0] != version:
            self._named = dict(policy.named_parameters())
        structure = (version, [(p.dtype, p.device) for p in self._named.values()], signature(inputs))
        self._parameters = [p.detach() for p in self._named.values()]
        if structure != self._structure:
            self._structure, self._graph = structure, None
            try:
                check_traceable(policy)
                function = PolicyFunction(self.function, policy, self._named)
                n, names = len(self._named), list(self._named)
                self._graph = compile_function(
                    lambda *tensors: function(dict(zip(names, tensors, strict=False)), *tensors[n:]),
                    [*self._parameters, *others(), *inputs],
                )
                self.tell(f"{self.what} is compiled")
            except NotCompilable as reason:
                self.tell(f"{self.what} runs uncompiled: {reason}")
        return self._graph is not None

    def takes(self, inputs: Sequence[Tensor]) -> bool:
        """Whether these are such inputs."""
        return self._structure is not None and self._structure[-1] == signature(inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The pass's result for inputs such as those that it was prepared for."""
        assert self._graph is not None
        return self._graph([*self._parameters, *inputs])
