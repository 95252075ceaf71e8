"""A policy's passes without gradients, for acting and for the evaluation of a rollout, compiled where that is wanted."""

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.compiling import Compiled, Function, NotCompilable, compile_function, signature
from sb3_pgx.common.distributions import has_one_hot, one_hot, sampling_parameters
from sb3_pgx.common.functional import PolicyFunction, check_traceable
from sb3_pgx.common.rollout import Observations, as_policy_input

# A longer rollout is bound by arithmetic, and not worth a graph.
MAX_EVALUATED_ROWS = 512


def acting_pass(tell: Callable[[str], None]) -> "CompiledPass":
    """From observations ``[N, *obs]`` to what :func:`~sb3_pgx.common.distributions.sample` needs."""

    def function(policy: ActorCriticPolicy, *tensors: Tensor) -> tuple[Tensor, ...]:
        return sampling_parameters(policy.get_distribution(as_observations(policy, tensors)))

    return CompiledPass(function, tell, "acting")


def evaluation_pass(tell: Callable[[str], None]) -> "CompiledPass":
    """From actions ``[B, action_dim]``, observations ``[B, *obs]`` and last observations to values, log π and last values."""

    def function(policy: ActorCriticPolicy, actions: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        middle = len(tensors) // 2
        observations, last = (as_observations(policy, part) for part in (tensors[:middle], tensors[middle:]))
        values, log_prob, _ = policy.evaluate_actions(observations, as_policy_input(actions, policy.action_space))
        return values.flatten(), log_prob.flatten(), policy.predict_values(last).flatten()

    return CompiledPass(function, tell, "the evaluation of a rollout")


def as_tensors(policy: ActorCriticPolicy, observations: Observations) -> list[Tensor]:
    """Observations, one-hot encoded, as a pass takes them."""
    if has_one_hot(policy.observation_space):
        observations = one_hot(observations, policy.observation_space)
    return list(observations.values()) if isinstance(observations, dict) else [observations]


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
        self._parameters: list[Tensor] = []
        self._graph: Compiled | None = None
        self._key: Any = None

    def prepare(self, policy: ActorCriticPolicy) -> None:
        """Before a rollout: forget the graph if the policy has changed in more than the values of its parameters."""
        parameters = [p for group in policy.optimizer.param_groups for p in group["params"]]
        structure = (id(policy), tuple((id(p), p.dtype, p.device) for p in parameters))
        if structure != self._structure:
            self._structure, self._kept, self._key = structure, (policy, parameters), None
        self._parameters = [p.detach() for p in parameters]

    def __call__(self, policy: ActorCriticPolicy, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """:return: the pass's result; ``None`` where it is not compiled for such inputs"""
        key = signature(inputs)
        if self._key is None:
            self._key = key
            try:
                self._graph = compile_function(self._traceable(policy), [*self._parameters, *inputs])
                self.tell(f"{self.what} is compiled")
            except NotCompilable as reason:
                self._graph = None
                self.tell(f"{self.what} runs uncompiled: {reason}")
        if self._graph is None or key != self._key:
            return None
        return self._graph([*self._parameters, *inputs])

    def _traceable(self, policy: ActorCriticPolicy) -> Function:
        check_traceable(policy)
        names = {id(p): name for name, p in policy.named_parameters()}
        ours = {names[id(p)]: p for group in policy.optimizer.param_groups for p in group["params"]}
        function = PolicyFunction(self.function, policy, ours)
        return lambda *tensors: function(dict(zip(ours, tensors, strict=False)), *tensors[len(ours) :])
