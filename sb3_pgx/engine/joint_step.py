"""One gradient step of several networks, each with its own optimizer, as a function: state in, state out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from sb3_pgx.engine.step import total_norm, zero_if_finite

# From parameters, their gradients and their moments to parameters and moments after a step.
Stepped = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Sequence[Tensor]]], Sequence[tuple[Tensor, Sequence[Tensor]]]]

Call = Callable[..., Any]  # calls a function of the policy and further inputs


class Mover(NamedTuple):
    """
    An optimizer as a function.

    :param names: names of the values that it moves
    :param moments: for each of these values, the tensors that the optimizer keeps
    :param stepped: takes the step, as a function of values and moments
    """

    names: Sequence[str]
    moments: Sequence[Sequence[Tensor]]
    stepped: Stepped


class Networks(nn.Module):
    """
    Networks and the values of their parameters.

    :param policy: contains the networks
    :param held: parameters by name. Those that are not the policy's are values of their own, such as a temperature
    """

    def __init__(self, policy: nn.Module, held: Mapping[str, Tensor]):
        super().__init__()
        names = {id(p): name for name, p in held.items()}
        self.policy, self.held, self._names = policy, dict(held), names
        self.places = {  # several places may hold one parameter
            f"policy.{path}.{attribute}" if path else f"policy.{attribute}": names[id(p)]
            for path, child in policy.named_modules()
            for attribute, p in child.named_parameters(recurse=False, remove_duplicate=False)
        }

    def names_of(self, network: str) -> list[str]:
        """Return the names of the parameters of a network, a module of the policy, such as ``critic``."""
        return [self._names[id(p)] for p in self.policy.get_submodule(network).parameters()]

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what a function of the policy returns."""
        return function(self.policy, *inputs)

    def call(self, values: Mapping[str, Tensor], function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what a function of the policy and further inputs returns when the parameters have the given values."""
        replaced = {place: values[name] for place, name in self.places.items() if values[name] is not self.held[name]}
        if not replaced:
            return function(self.policy, *inputs)
        return functional_call(self, replaced, (function, *inputs), tie_weights=False)


class JointStep:
    """
    A gradient step while it is taken: later parts of it see the values that earlier parts have reached.

    Nothing is changed in place. ``values`` are those reached so far, and ``moments`` those of the optimizers that have moved.

    :param networks: what the losses are made of
    :param values: parameters by name, leaves of autograd
    :param movers: optimizers by name
    """

    def __init__(self, networks: Networks, values: Mapping[str, Tensor], movers: Mapping[str, Mover]):
        self._networks, self._before, self._movers = networks, values, movers
        self.values = dict(values)
        self.moments: dict[str, list[Sequence[Tensor]]] = {}  # by optimizer
        self._norms: list[Tensor] = []

    def call(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what a function of the policy and further inputs returns, with the values reached so far."""
        return self._networks.call(self.values, function, *inputs)

    def minimize(self, loss: Tensor, optimizer: str, max_grad_norm: Any = None) -> None:
        """
        Move the values of an optimizer by one step.

        :param loss: depends on these values
        :param optimizer: name of the optimizer; each optimizer may take one step, and one whose parameters are all frozen
            takes none
        :param max_grad_norm: norm to which the gradient of all these values together is clipped; ``None``: it is not clipped
        """
        if optimizer not in self._movers:
            return
        names, moments, stepped = self._movers[optimizer]
        gradients = th.autograd.grad(loss, [self.values[name] for name in names], allow_unused=True)
        given = [i for i, g in enumerate(gradients) if g is not None]  # an optimizer leaves the others alone
        moving, after = [gradients[i] for i in given], [*moments]
        self._norms.append(total_norm(moving))
        with th.no_grad():
            if max_grad_norm is not None:
                scale = (max_grad_norm / (self._norms[-1] + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
                moving = [g * scale for g in moving]
            values = [self.values[names[i]].detach() for i in given]
            for i, (value, kept) in zip(given, stepped(values, moving, [moments[i] for i in given]), strict=True):
                self.values[names[i]], after[i] = value.requires_grad_(True), kept
        self.moments[optimizer] = after

    def track(self, network: str, target: str, tau: Any) -> None:
        """
        Move a target network: θ' ← (1 − τ) θ' + τ θ.

        :param network: name of a module of the policy
        :param target: name of another one, the target network
        :param tau: τ, a number or a tensor without dimensions
        """
        with th.no_grad():
            for followed, name in zip(self._networks.names_of(network), self._networks.names_of(target), strict=True):
                kept, new = self.values[name] * (1 - tau), self.values[followed]
                # As SB3 rounds, where τ is a number.
                self.values[name] = kept + tau * new if isinstance(tau, Tensor) else th.add(kept, new, alpha=tau)

    def changed(self) -> list[str]:
        """Return the names of the values that are not those before the step."""
        return [name for name, value in self.values.items() if value is not self._before[name]]

    def check(self) -> Tensor:
        """Return 0 if gradients and values after the step are finite, else NaN."""
        numbers = [*self._norms, *(self.values[name].detach() for name in self.changed())]
        return th.stack([zero_if_finite(x) for x in numbers]).sum()


class OptimizersStep:
    """
    The same step, taken in place by the optimizers themselves. It has the methods of :class:`JointStep`.

    :param policy: contains the networks
    :param values: parameters by name
    :param optimizers: by name
    """

    def __init__(self, policy: nn.Module, values: Mapping[str, Tensor], optimizers: Mapping[str, Optimizer]):
        self._policy, self.values, self._optimizers = policy, values, optimizers
        self._norms: list[Tensor] = []

    def call(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """As :meth:`JointStep.call`."""
        return function(self._policy, *inputs)

    def minimize(self, loss: Tensor, optimizer: str, max_grad_norm: Any = None) -> None:
        """As :meth:`JointStep.minimize`."""
        taking = self._optimizers[optimizer]
        moved = [p for group in taking.param_groups for p in group["params"] if p.requires_grad]
        if not moved:
            return
        taking.zero_grad()
        th.autograd.backward(loss, inputs=moved)
        self._norms.append(total_norm([p.grad for p in moved if p.grad is not None]))
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(moved, max_grad_norm)
        taking.step()

    def track(self, network: str, target: str, tau: Any) -> None:
        """As :meth:`JointStep.track`."""
        moving, moved = (self._policy.get_submodule(name).parameters() for name in (network, target))
        polyak_update(moving, moved, tau)

    def check(self) -> Tensor:
        """As :meth:`JointStep.check`."""
        return th.stack([zero_if_finite(x.detach()) for x in (*self._norms, *self.values.values())]).sum()


Step = JointStep | OptimizersStep  # as a gradient step's function takes it
