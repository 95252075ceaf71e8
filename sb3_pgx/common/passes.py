"""A policy's passes without gradients, for acting and for the evaluation of a rollout, compiled where that is wanted."""

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.compiling import Compiled, Function, NotCompilable, compile_function, signature
from sb3_pgx.common.distributions import has_one_hot, one_hot, sample_with
from sb3_pgx.common.functional import PolicyFunction, check_traceable
from sb3_pgx.common.rollout import Observations, as_policy_input

# A longer rollout is bound by arithmetic, and not worth a graph.
MAX_EVALUATED_ROWS = 512


def acting_pass(tell: Callable[[str], None]) -> "CompiledPass":
    """From :func:`~sb3_pgx.common.distributions.noise` and observations ``[N, *obs]`` to actions ``[N, *action]``."""

    def function(policy: ActorCriticPolicy, noise: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        actions = sample_with(policy.get_distribution(as_observations(policy, tensors)), noise)
        return (actions.reshape((-1, *policy.action_space.shape)),)  # type: ignore[misc]

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
        self._kept: Any = None  # what the structure knows by its id must stay alive
        self._parameters: list[Tensor] = []
        self._graph: Compiled | None = None

    def prepare(
        self, policy: ActorCriticPolicy, inputs: Sequence[Tensor], others: Callable[[], Sequence[Tensor]] = tuple
    ) -> bool:
        """
        Before a rollout: look whether anything has changed but the values of the parameters.

        :param inputs: such as those to come; their values do not matter
        :param others: gives what comes before them and is always the same but for its values
        :return: whether the pass is compiled
        """
        parameters = [p for group in policy.optimizer.param_groups for p in group["params"]]
        structure = (id(policy), [(id(p), p.dtype, p.device) for p in parameters], signature(inputs))
        self._parameters = [p.detach() for p in parameters]
        if structure != self._structure:
            self._structure, self._kept, self._graph = structure, (policy, parameters), None
            try:
                self._graph = compile_function(self._traceable(policy), [*self._parameters, *others(), *inputs])
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

    def _traceable(self, policy: ActorCriticPolicy) -> Function:
        check_traceable(policy)
        names = {id(p): name for name, p in policy.named_parameters()}
        ours = {names[id(p)]: p for group in policy.optimizer.param_groups for p in group["params"]}
        function = PolicyFunction(self.function, policy, ours)
        return lambda *tensors: function(dict(zip(ours, tensors, strict=False)), *tensors[len(ours) :])
