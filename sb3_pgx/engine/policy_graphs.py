"""Forward passes of a policy without gradients, for acting and evaluation, eager or compiled."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import has_one_hot, one_hot, sample_with
from sb3_pgx.core.evaluation import evaluate_actions, evaluate_latents
from sb3_pgx.core.mixed_spaces import action_shape
from sb3_pgx.core.policies import distribution_of, unchecked
from sb3_pgx.core.recurrent_evaluation import features_of, latents_and_states, names_of_memory, recurrent_step
from sb3_pgx.core.rollout import PolicyInputs
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import Compiled, Remembered, signature
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_function import PolicyFunction, check_traceable, check_traceable_over_sequences, laid_out
from sb3_pgx.engine.trace import Function
from sb3_pgx.ops.returns import gae, next_values

# Limits of rollouts that a graph evaluates. With 256 steps of 8 environments a graph would save 2.7 of 82 ms per rollout, but
# compiling it takes seconds: only runs of a thousand rollouts would be faster.
MAX_EVALUATED_ROWS, MAX_EVALUATED_STEPS = 512, 16


def acting_pass(space: spaces.Space, log: CompileLog, recurrent: bool) -> "CompiledPass":
    """
    Return the pass from noise (see :func:`~sb3_pgx.core.distributions.noise_source`) and observations to actions.

    A recurrent policy takes the starts of episodes and the actor's state after the noise, and returns its state after the
    actions.
    """
    return CompiledPass(_recurrent_actions if recurrent else _actions, space, log, "acting")


def evaluation_pass(space: spaces.Space, log: CompileLog) -> "CompiledPass":
    """
    Return the pass that evaluates and estimates a rollout.

    It maps γ and λ ``[2]``, actions ``[T, N, action_dim]``, rewards, ``terminated``, ``truncated`` and values of the final
    observations ``[T, N]``, policy inputs ``[T * N, ...]`` and last observations to values, log π, next values, advantages
    and returns ``[T, N]``, last values ``[N]``, and a number that is finite if values and log π are.
    """
    return CompiledPass(_evaluation, space, log, "the evaluation of a rollout")


def rows_pass(space: spaces.Space, log: CompileLog) -> "CompiledPass":
    """
    Return the pass from actions ``[B, action_dim]`` and policy inputs ``[B, ...]`` to V, log π and entropy ``[B]``, and to the
    packed parameters of the distributions ``[B, K]``.
    """
    return CompiledPass(_rows, space, log, "the evaluation of rows")


def sequences_pass(space: spaces.Space, log: CompileLog) -> "CompiledPass":
    """
    Return the pass from actions ``[R, action_dim]`` and a recurrent policy's inputs, in packed order and in fixed shapes, to
    V, log π and entropy ``[R]``, and to the states after each row ``[R, layers, H]`` in the order of
    :func:`~sb3_pgx.core.recurrent_evaluation.no_memory`.
    """
    return CompiledPass(_sequences, space, log, "the evaluation of sequences", check_traceable_over_sequences)


def _rows(policy: ActorCriticPolicy, actions: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    evaluated = evaluate_actions(policy, as_inputs(policy, tensors), actions, with_distribution=True)
    assert evaluated.distribution is not None
    return evaluated.values, evaluated.log_prob, evaluated.entropy, evaluated.distribution


def _sequences(policy: ActorCriticPolicy, actions: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    observations, action_masks, memory = as_inputs(policy, tensors)
    assert memory is not None
    latents, after = latents_and_states(policy, features_of(policy, observations), memory)
    evaluated = evaluate_latents(policy, latents, action_masks, actions)
    return evaluated.values, evaluated.log_prob, evaluated.entropy, *after.values()


def _actions(policy: ActorCriticPolicy, noise: Tensor, *tensors: Tensor) -> tuple[Tensor]:
    return (actions_from_noise(policy, as_inputs(policy, tensors), noise),)


def actions_from_noise(policy: ActorCriticPolicy, inputs: PolicyInputs, noise: Tensor) -> Tensor:
    """Return the actions, ``[N, *action]``, that random numbers of its ``noise_source`` make a policy take."""
    actions = sample_with(distribution_of(policy, inputs), noise)
    return actions.reshape((-1, *action_shape(policy.action_space)))


def _recurrent_actions(
    policy: ActorCriticPolicy, noise: Tensor, resets: Tensor, hidden: Tensor, cell: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]:
    inputs = as_inputs(policy, tensors)
    with unchecked(policy, inputs.action_masks):
        distribution, state = recurrent_step(policy, inputs.observations, resets, (hidden, cell))
        actions = sample_with(distribution, noise)
    return actions.reshape((-1, *action_shape(policy.action_space))), *state


def _evaluation(
    policy: ActorCriticPolicy,
    discounts: Tensor,
    actions: Tensor,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    *tensors: Tensor,
) -> tuple[Tensor, ...]:
    n_last = n_parts(policy.observation_space)
    inputs, last = (as_inputs(policy, part) for part in (tensors[:-n_last], tensors[-n_last:]))
    values, log_prob, _, _ = evaluate_actions(policy, inputs, actions.flatten(end_dim=1))
    values, log_prob = values.view_as(rewards), log_prob.view_as(rewards)
    last_values = policy.predict_values(last.observations).flatten()
    following = next_values(values, last_values, terminated, truncated, final_values)
    advantages = gae(rewards, values, following, terminated | truncated, *discounts.unbind())
    check = values.sum() + following.sum() + log_prob.sum()
    return values, log_prob, following, advantages, advantages + values, last_values, check


class Encoder:
    """
    Turn policy inputs into the tensors that a pass takes: observations in the order of the space, one-hot encoded, then masks,
    then the memory of a batch in fixed shapes.

    :param space: observation space
    """

    def __init__(self, space: spaces.Space):
        self._space = space
        self._has_one_hot = has_one_hot(space)

    def __call__(self, inputs: PolicyInputs) -> list[Tensor]:
        """
        :param inputs: observations of the space, in the types that the policy acted on, action masks and memory
        :return: one tensor per part of the space, then masks and memory if there are any
        """
        observations, masks, memory = inputs
        if self._has_one_hot:
            observations = one_hot(observations, self._space)
        if isinstance(observations, dict):
            parts = [observations[key] for key in self._space.spaces]  # type: ignore[attr-defined]
        else:
            parts = [observations]
        return [*parts, *([] if masks is None else [masks]), *(memory or {}).values()]


def as_inputs(policy: ActorCriticPolicy, tensors: Sequence[Tensor]) -> PolicyInputs:
    """Return the policy inputs that an :class:`Encoder` turned into tensors."""
    space, n = policy.observation_space, n_parts(policy.observation_space)
    observations = dict(zip(space.spaces, tensors[:n], strict=True)) if isinstance(space, spaces.Dict) else tensors[0]
    rest = tensors[n:]
    names = names_of_memory(policy) if len(rest) > 1 else []  # masks alone are one tensor
    masks = rest[: len(rest) - len(names)]
    memory = dict(zip(names, rest[len(masks) :], strict=True)) if names else None
    return PolicyInputs(observations, masks[0] if masks else None, memory)


def n_parts(space: spaces.Space) -> int:
    """Return the number of tensors of an observation."""
    return len(space.spaces) if isinstance(space, spaces.Dict) else 1


class CompiledPass:
    """
    One forward pass of a policy, at the parameters' current values.

    :param function: pure function of the policy and tensors that returns a tuple of tensors
    :param space: observation space
    :param log: of what is compiled
    :param what: name of the pass in that log
    :param check: raises :class:`~sb3_pgx.engine.trace.NotCompilable` if there is a reason not to trace the policy
    """

    def __init__(
        self,
        function: Callable[..., Any],
        space: spaces.Space,
        log: CompileLog,
        what: str,
        check: Callable[[ActorCriticPolicy], None] = check_traceable,
    ):
        self.function, self.log, self.what, self._check = function, log, what, check
        self.encode = Encoder(space)
        self.constants = Remembered()  # among the inputs
        self._structure: Any = None
        self.shapes_before: list[th.Size] = []  # of what comes before the inputs
        self._layout: list[Any] = []  # of inputs, whose device is always the same
        self._parameters: list[Tensor] = []
        self._pointers: list[int] = []  # to where they are
        self._graph: Compiled | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_structure": None, "_layout": [], "_parameters": [], "_pointers": [], "_graph": None}

    def prepare(
        self,
        policy: ActorCriticPolicy,
        modules: Modules,
        inputs: Sequence[Tensor],
        others: Callable[[], Sequence[Tensor]] = tuple,
        moved: Sequence[str] = (),
    ) -> bool:
        """
        Before a rollout, drop the graph if anything but the parameters' values has changed, and compile it if there is none.

        :param policy: in evaluation mode
        :param modules: its layers, as seen last
        :param inputs: examples of later inputs; their values do not matter
        :param others: returns examples of the arguments before them
        :param moved: names of the parameters with respect to which the pass differentiates
        :return: whether the pass is compiled
        """
        structure = (modules.version, tuple(moved), signature(inputs))
        if structure != self._structure or self._pointers != _pointers(modules.parameters.values()):
            self._parameters = [p.detach() for p in modules.parameters.values()]  # which asks for no context without gradients
            self._pointers = _pointers(self._parameters)
        if structure != self._structure:
            self._structure = self._graph = None  # after an interruption, the next rollout compiles again
            self._layout = _layout(inputs)
            self._graph = self.log.compile(
                self.what,
                lambda: self._traceable(policy, modules.parameters, moved),
                lambda: [*self._parameters, *self._examples(others()), *inputs],
            )
            self._structure = structure
        return self._graph is not None

    def _traceable(self, policy: ActorCriticPolicy, parameters: Mapping[str, Tensor], moved: Sequence[str]) -> Function:
        """Return the pass as a function of tensors alone, the parameters first."""
        self._check(policy)
        function, n, names = self.bound(policy, parameters, moved), len(parameters), list(parameters)
        return lambda *tensors: function(laid_out(dict(zip(names, tensors, strict=False))), *tensors[n:])

    def _examples(self, before: Sequence[Tensor]) -> Sequence[Tensor]:
        self.shapes_before = [x.shape for x in before]
        return before

    def is_outdated(self, modules: Modules) -> bool:
        """Return whether the policy's layers or parameters have been replaced since the graph was prepared."""
        return (
            self._structure[0] != modules.version
            or not modules.act_as_before()
            or self._pointers != _pointers(modules.parameters.values())
        )

    def takes(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether the pass was prepared for inputs of this layout."""
        return self._layout == _layout(inputs)

    def bound(self, policy: ActorCriticPolicy, parameters: Mapping[str, Tensor], moved: Sequence[str]) -> Function:
        """Return the pass as a function of the parameters' values, by name, and of its inputs."""
        return PolicyFunction(self.function, policy, parameters)

    def run(
        self,
        policy: ActorCriticPolicy,
        modules: Modules,
        inputs: Sequence[Tensor],
        compiled: bool,
        moved: Sequence[str] = (),
    ) -> tuple[Tensor, ...]:
        """
        Return the pass's result for any inputs.

        :param policy: in evaluation mode
        :param modules: its layers, as seen last
        :param inputs: one-hot encoded
        :param compiled: whether to compile the pass if possible
        :param moved: names of the parameters with respect to which the pass differentiates
        """
        with th.no_grad():
            if compiled and self.prepare(policy, modules, inputs, moved=moved):
                return self(inputs)
            return self.bound(policy, modules.parameters, moved)(dict(modules.parameters), *inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the pass's result for inputs like those that it was prepared for; none may require a gradient."""
        assert self._graph is not None
        return self._graph([*self._parameters, *inputs])


def _pointers(tensors: Iterable[Tensor]) -> list[int]:
    return list(map(Tensor.data_ptr, tensors))


def _layout(inputs: Sequence[Tensor]) -> list[Any]:
    return [(x.shape, x.stride(), x.dtype) for x in inputs]
