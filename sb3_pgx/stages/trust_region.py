"""Steps whose length is measured by what they do to a policy's outputs: gradients, curvature, and where a step leads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.rollout import Observations
from sb3_pgx.engine.compiler import Function
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_function import PolicyFunction
from sb3_pgx.engine.policy_graphs import CompiledPass, as_observations
from sb3_pgx.engine.tensors import copy_all, flatten, unflatten
from sb3_pgx.ops.natural_gradient import LineSearch, Product, backtracking, gauss_newton_product


class Problem(NamedTuple):
    """
    What a step is to raise, and the divergence that it is measured by; B states, K outputs.

    :param outputs: of the policy and observations: what the divergence compares, ``[B, K]``
    :param gain: of the policy, which has just computed the outputs, the outputs and the data: its mean is to be raised,
        ``[B]``
    :param n_data: how many tensors of data the gain takes
    :param metric: of the policy, the outputs and tangents of them ``[B, K]``: each tangent times the Hessian that the
        divergence has in the new outputs where they are the old ones, ``[B, K]``
    :param divergence: of the policy, the old outputs and the new ones, ``[B]``
    """

    outputs: Callable[[ActorCriticPolicy, Observations], Tensor]
    gain: Callable[..., Tensor]
    n_data: int
    metric: Callable[[ActorCriticPolicy, Tensor, Tensor], Tensor]
    divergence: Callable[[ActorCriticPolicy, Tensor, Tensor], Tensor]


class Measured(NamedTuple):
    """What a policy is now."""

    gain: float  # mean over the states
    divergence: float  # from the start, mean
    max_divergence: float


class TrustRegion:
    """
    The passes of one problem, compiled where that is wanted and possible.

    :param problem: its
    :param space: of the observations
    :param tell: takes one sentence about compiling
    :param what: is moved, in that sentence
    """

    def __init__(self, problem: Problem, space: spaces.Space, tell: Callable[[str], None], what: str):
        self.problem = problem
        self.gradient = Derivative(self._gained, _gradient, space, tell, f"the gradient of {what}")
        self.product = Derivative(self._outputs, self._product, space, tell, f"the curvature of {what}")
        self.measure = CompiledPass(self._measured, space, tell, f"the measure of {what}")

    def _outputs(self, policy: ActorCriticPolicy, *observations: Tensor) -> Tensor:
        return self.problem.outputs(policy, as_observations(policy, observations))

    def _gained(self, policy: ActorCriticPolicy, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(policy, *tensors[self.problem.n_data :])
        return self.problem.gain(policy, outputs, *tensors[: self.problem.n_data]).mean(), outputs

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
        """v -> Jᵀ M J v / B at given values of the parameters; J is the Jacobian in the parameters ``moved``."""
        policy, theta = function.policy, flat([values[name] for name in moved])

        def outputs(theta: Tensor) -> Tensor:
            return function({**values, **named(theta, values, moved)}, *inputs)

        old = outputs(theta)
        return gauss_newton_product(outputs, theta, lambda tangents: self.problem.metric(policy, old, tangents))


class Derivative(CompiledPass):
    """
    A pass that differentiates: ``derive`` gets the function of the policy's parameters, their values, the names of those in
    which to differentiate, and the inputs.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        derive: Callable[..., tuple[Tensor, ...]],
        space: spaces.Space,
        tell: Callable[[str], None],
        what: str,
    ):
        super().__init__(function, space, tell, what)
        self.derive = derive

    def bound(self, policy: ActorCriticPolicy, parameters: Mapping[str, Tensor], moved: Sequence[str]) -> Function:
        function = PolicyFunction(self.function, policy, parameters)
        return lambda values, *inputs: self.derive(function, values, moved, *inputs)


def _gradient(
    function: PolicyFunction, values: dict[str, Tensor], moved: Sequence[str], *inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """∇ mean gain, the mean gain, and the outputs."""
    theta = flat([values[name] for name in moved]).detach().requires_grad_(True)
    with th.enable_grad():
        gain, outputs = function({**values, **named(theta, values, moved)}, *inputs)
        (gradient,) = th.autograd.grad(gain, theta)
    return gradient, gain.detach(), outputs.detach()


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all of them, ``[P]``."""
    return th.cat([x.flatten() for x in tensors])


def named(theta: Tensor, like: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The way back: views of a flat vector, by name and in the shapes of ``like``."""
    pieces = theta.split([like[name].numel() for name in names])
    return {name: piece.view(like[name].shape) for name, piece in zip(names, pieces, strict=True)}


class Surroundings:
    """
    A policy and where its parameters can go from here.

    ``gradient`` is that of the mean gain ``[P]``, ``start`` what is measured before any step, ``old`` the outputs there.

    :param region: the problem's passes
    :param policy: in evaluation mode
    :param modules: its layers, as they were looked at last
    :param moved: names of the parameters that move
    :param data: what the gain takes, ``[B, ...]`` each
    :param observations: of B states
    :param sample: of the states that the curvature is computed from; ``None``: all
    :param compiled: run compiled what can be
    """

    def __init__(
        self,
        region: TrustRegion,
        policy: ActorCriticPolicy,
        modules: Modules,
        moved: Sequence[str],
        data: Sequence[Tensor],
        observations: Observations,
        sample: Observations | None,
        compiled: bool,
    ):
        self._region, self._policy, self._modules, self._compiled = region, policy, modules, compiled
        self.moved = tuple(moved)
        encoded = region.gradient.inputs(observations)
        self._inputs = [*data, *encoded]
        self._sample = encoded if sample is None else region.gradient.inputs(sample)
        self._data = [modules.parameters[name].detach() for name in moved]
        self._theta = flatten(self._data)
        self.gradient, gain, self.old = region.gradient.run(policy, modules, self._inputs, compiled, self.moved)
        self.start = self.now = Measured(gain.item(), 0.0, 0.0)

    def product(self) -> Product:
        """v -> Jᵀ M J v / B over the sample, at the start."""
        region, policy, modules, inputs = self._region, self._policy, self._modules, self._sample
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
        The policy's parameters become those of the start plus a step.

        :param step: ``[P]``; ``None``: exactly those of the start
        """
        self.now = self.start
        theta = self._theta if step is None else self._theta + step
        copy_all(self._data, unflatten(theta, self._data))

    def measure(self) -> Measured:
        """What the policy is now, which ``now`` keeps until it moves again."""
        result = self._region.measure.run(self._policy, self._modules, [self.old, *self._inputs], self._compiled)
        self.now = Measured(*(x.item() for x in result))
        return self.now

    def take(self, step: Tensor) -> Measured:
        """
        Take a step and measure; where an exception interrupts it, the policy stays exactly as it is.

        :param step: ``[P]``
        """
        try:
            self.move(step)
            return self.measure()
        except BaseException:
            self.move(None)
            raise

    def search(self, step: Tensor, shrink: float, max_tries: int, limit: float, unit: float = 1.0) -> LineSearch:
        """
        Take the longest of the steps ``step``, shrink · ``step``, … that improves the gain within a limit; where none does,
        the policy stays exactly as it is.

        :param step: ``[P]``; 0: nothing is tried
        :param shrink: in (0, 1)
        :param max_tries: the most steps tried
        :param limit: of the divergence
        :param unit: what the divergence is measured in
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
