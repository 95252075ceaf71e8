"""
Steps of NPG and TRPO, whose length is measured by how much they change the policy's outputs.

A :class:`Problem` defines the objective and the divergence. A :class:`TrustRegion` has functions for gradient, curvature and
divergence, compiled if possible. :class:`TrustRegionStep` holds one policy's gradient and curvature, and takes the steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.policies import masking
from sb3_pgx.core.rollout import PolicyInputs
from sb3_pgx.core.tensors import copy_all, flatten, unflatten
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_function import PolicyFunction, check_traceable_over_sequences
from sb3_pgx.engine.policy_graphs import CompiledPass, as_inputs
from sb3_pgx.engine.trace import Function
from sb3_pgx.ops.natural_gradient import LineSearch, Product, backtracking, gauss_newton_product


class Problem(NamedTuple):
    """
    An objective to maximise subject to a bound on a divergence, for B states and K outputs per state.

    :param outputs: (policy, inputs) -> outputs that the divergence compares, ``[B, K]``
    :param gain: (policy, outputs, data tensors) -> gain per state, ``[B]``, whose mean is the objective; the policy has just
        computed the outputs
    :param n_data: number of data tensors that ``gain`` takes
    :param metric: (policy, outputs, tangents ``[B, K]``) -> each tangent times the Hessian of the divergence in the new
        outputs at the old ones, ``[B, K]``
    :param divergence: (policy, old outputs, new outputs) -> divergence per state, ``[B]``
    """

    outputs: Callable[[ActorCriticPolicy, PolicyInputs], Tensor]
    gain: Callable[..., Tensor]
    n_data: int
    metric: Callable[[ActorCriticPolicy, Tensor, Tensor], Tensor]
    divergence: Callable[[ActorCriticPolicy, Tensor, Tensor], Tensor]


class StepOutcome(NamedTuple):
    """Objective and divergence of a policy after a step."""

    gain: float  # mean over the states
    divergence: float  # from the policy before the step, mean over the states
    max_divergence: float


class TrustRegion:
    """
    Functions for gradient, curvature and divergence of one problem, compiled if wanted and possible.

    :param problem: objective and divergence
    :param space: observation space
    :param log: of what is compiled
    :param what: name of the part that the steps move, for these sentences, such as "the policy"
    """

    def __init__(self, problem: Problem, space: spaces.Space, log: CompileLog, what: str):
        self.problem = problem
        self.gradient = Derivative(self._gained, _gradient, space, log, f"the gradient of {what}")
        self.product = Derivative(self._outputs, self._product, space, log, f"the curvature of {what}")
        self.measure = CompiledPass(self._measured, space, log, f"the measure of {what}", check_traceable_over_sequences)

    def _outputs(self, policy: ActorCriticPolicy, *tensors: Tensor) -> Tensor:
        inputs = as_inputs(policy, tensors)
        with masking(policy, inputs.action_masks):
            return self.problem.outputs(policy, inputs)

    def _gained(self, policy: ActorCriticPolicy, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        n, inputs = self.problem.n_data, as_inputs(policy, tensors[self.problem.n_data :])
        with masking(policy, inputs.action_masks):
            outputs = self.problem.outputs(policy, inputs)
            return self.problem.gain(policy, outputs, *tensors[:n]).mean(), outputs

    def _measured(self, policy: ActorCriticPolicy, old: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        gain, outputs = self._gained(policy, *tensors)
        # In double precision: the divergence of a small step is a difference of nearly equal numbers.
        divergence = self.problem.divergence(policy, old.double(), outputs.double())
        return gain, divergence.mean(), divergence.max()

    def _product(
        self, function: PolicyFunction, values: dict[str, Tensor], moved: Sequence[str], v: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.product_at(function, values, moved, inputs)(v),)

    def product_at(
        self, function: PolicyFunction, values: dict[str, Tensor], moved: Sequence[str], inputs: Sequence[Tensor]
    ) -> Product:
        """
        Return the product v -> Jᵀ M J v / B, where J is the Jacobian of the outputs in the parameters ``moved``.

        :param function: the outputs as a function of the policy's parameters
        :param values: values of all parameters, by name
        :param moved: names of the parameters in which to differentiate
        :param inputs: encoded observations
        """
        policy, theta = function.policy, flatten([values[name] for name in moved])

        def outputs(theta: Tensor) -> Tensor:
            return function({**values, **named(theta, values, moved)}, *inputs)

        old = outputs(theta)
        return gauss_newton_product(outputs, theta, lambda tangents: self.problem.metric(policy, old, tangents))


class Derivative(CompiledPass):
    """
    A pass with derivatives.

    :param function: function of the policy and the inputs
    :param derive: (function of the parameters, values of the parameters, names of those to differentiate in, inputs)
        -> derivatives
    :param space: observation space
    :param log: of what is compiled
    :param what: name of the pass, for these sentences
    """

    def __init__(
        self,
        function: Callable[..., Any],
        derive: Callable[..., tuple[Tensor, ...]],
        space: spaces.Space,
        log: CompileLog,
        what: str,
    ):
        super().__init__(function, space, log, what, check_traceable_over_sequences)
        self.derive = derive

    def bound(self, policy: ActorCriticPolicy, parameters: Mapping[str, Tensor], moved: Sequence[str]) -> Function:
        function = PolicyFunction(self.function, policy, parameters)
        return lambda values, *inputs: self.derive(function, values, moved, *inputs)


def _gradient(
    function: PolicyFunction, values: dict[str, Tensor], moved: Sequence[str], *inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the mean gain, the mean gain, and the outputs."""
    theta = flatten([values[name] for name in moved]).detach().requires_grad_(True)
    with th.enable_grad():
        gain, outputs = function({**values, **named(theta, values, moved)}, *inputs)
        (gradient,) = th.autograd.grad(gain, theta)
    return gradient, gain.detach(), outputs.detach()


def named(theta: Tensor, like: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Split a vector ``[P]`` into views by name, in the shapes of ``like``. This is the inverse of ``flatten``."""
    pieces = theta.split([like[name].numel() for name in names])
    return {name: piece.view(like[name].shape) for name, piece in zip(names, pieces, strict=True)}


class TrustRegionStep:
    """
    A policy at the start of a step: gradient and curvature there, and methods that move its parameters and measure the result.

    ``gradient`` is the gradient of the mean gain, ``[P]``. ``start`` has objective and divergence before any step, and
    ``now`` those of the current parameters. ``old`` are the outputs at the start, and ``sample`` the
    policy inputs, as tensors, from which the curvature is computed.

    :param region: functions of the problem
    :param policy: policy in evaluation mode
    :param modules: layers of the policy, up to date
    :param moved: names of the parameters that a step moves
    :param data: data tensors of the gain, ``[B, ...]`` each
    :param inputs: what the policy acts on in B states; a recurrent policy's memory in fixed shapes
    :param sample: inputs from which the curvature is computed; ``None``: all
    :param compiled: whether to run compiled functions
    """

    def __init__(
        self,
        region: TrustRegion,
        policy: ActorCriticPolicy,
        modules: Modules,
        moved: Sequence[str],
        data: Sequence[Tensor],
        inputs: PolicyInputs,
        sample: PolicyInputs | None,
        compiled: bool,
    ):
        self._region, self._policy, self._modules, self._compiled = region, policy, modules, compiled
        self.moved = tuple(moved)
        encoded = region.gradient.encode(inputs)
        self._inputs = [*data, *encoded]
        self.sample = encoded if sample is None else region.gradient.encode(sample)
        self._data = [modules.parameters[name].detach() for name in moved]
        self._theta = flatten(self._data)
        self.gradient, gain, self.old = region.gradient.run(policy, modules, self._inputs, compiled, self.moved)
        self.start = self.now = StepOutcome(gain.item(), 0.0, 0.0)

    def product(self) -> Product:
        """Return the product v -> Jᵀ M J v / B over the sample, at the start."""
        region, policy, modules, inputs = self._region, self._policy, self._modules, self.sample
        if self._compiled and region.product.prepare(policy, modules, [self.gradient, *inputs], moved=self.moved):
            return lambda v: region.product.run(policy, modules, [v, *inputs], True, self.moved)[0]
        function = PolicyFunction(region.product.function, policy, modules.parameters)
        with th.no_grad():
            product = region.product_at(function, dict(modules.parameters), self.moved, inputs)

        def uncompiled(v: Tensor) -> Tensor:
            with th.no_grad():
                return product(v)

        return uncompiled

    def move(self, step: Tensor | None) -> None:
        """
        Set the policy's parameters to those of the start plus a step.

        :param step: step, ``[P]``; ``None``: exactly the parameters of the start
        """
        self.now = self.start
        theta = self._theta if step is None else self._theta + step
        copy_all(self._data, unflatten(theta, self._data))

    def measure(self) -> StepOutcome:
        """Return objective and divergence of the current parameters, and keep them as ``now``."""
        result = self._region.measure.run(self._policy, self._modules, [self.old, *self._inputs], self._compiled)
        self.now = StepOutcome(*(x.item() for x in result))
        return self.now

    def take(self, step: Tensor) -> StepOutcome:
        """
        Take a step from the start, and return objective and divergence there. After an exception, the policy is at the start.

        :param step: step, ``[P]``
        """
        try:
            self.move(step)
            return self.measure()
        except BaseException:
            self.move(None)
            raise

    def search(self, step: Tensor, shrink: float, max_tries: int, limit: float, unit: float = 1.0) -> LineSearch:
        """
        Take the longest of the steps ``step``, shrink · ``step``, … that improves the objective within a limit on the
        divergence. If none does, the policy is put back to the start.

        :param step: full step, ``[P]``; if it is 0, nothing is tried
        :param shrink: factor between two steps, in (0, 1)
        :param max_tries: largest number of steps tried
        :param limit: largest divergence, in multiples of ``unit``
        :param unit: unit of the divergence
        """

        def measured(scale: float) -> tuple[float, float]:
            now = self.take(scale * step)
            return now.gain - self.start.gain, now.divergence / unit

        if not step.any():
            return LineSearch(0.0, 0.0, 0.0, 0)
        found = backtracking(measured, shrink, max_tries, limit)
        if not found.accepted:
            self.move(None)
        return found
