"""A policy as a pure function of its parameters, for traces and function transforms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.func import functional_call

from sb3_pgx.core.distributions import Unvalidated, distribution_kept, takes_one_hot
from sb3_pgx.core.recurrent_evaluation import is_recurrent, networks_of
from sb3_pgx.engine.layers import has_hooks, hooks_are_found
from sb3_pgx.engine.trace import NotCompilable


class PolicyFunction:
    """
    A function of a policy and tensors that takes the values of the policy's parameters as an argument.

    Observations among the tensors are those of :func:`~sb3_pgx.core.distributions.one_hot`. The policy is not changed.

    :param function: takes the policy and further arguments
    :param policy: the policy whose parameters are replaced
    :param parameters: the parameters that will be given, by name
    :param others: further policies that the function reads
    """

    def __init__(
        self,
        function: Callable[..., Any],
        policy: ActorCriticPolicy,
        parameters: Mapping[str, Tensor],
        others: Sequence[ActorCriticPolicy] = (),
    ):
        self.policy, self.others, self.module = policy, others, _Bound(function, policy, others)
        self.places = parameter_places(self.module, parameters)

    def __call__(self, values: Mapping[str, Tensor], *inputs: Any) -> Any:
        """
        :param values: values of the parameters, by name
        :param inputs: further arguments of the function
        """
        replaced = {place: values[name] for place, name in self.places.items()}
        with ExitStack() as stack:
            for policy in (self.policy, *self.others):
                stack.enter_context(distribution_kept(policy))
                stack.enter_context(takes_one_hot(policy))
            stack.enter_context(Unvalidated())
            return functional_call(self.module, replaced, inputs, tie_weights=False)


def laid_out(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return parameters in the layout in which a graph is fastest. On the CPU, convolutions take a quarter less time with
    channels last, and one weight in this layout brings all later tensors into it.
    """
    return {
        name: x.contiguous(memory_format=th.channels_last) if x.dim() == 4 and not x.is_cuda else x
        for name, x in values.items()
    }


class _Bound(nn.Module):
    """``functional_call`` calls ``forward``."""

    def __init__(self, function: Callable[..., Any], policy: ActorCriticPolicy, others: Sequence[ActorCriticPolicy]):
        super().__init__()
        self.policy, self.others, self._function = policy, nn.ModuleList(others), function

    def forward(self, *inputs: Any) -> Any:
        return self._function(self.policy, *inputs)


def parameter_places(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """
    Return every place in ``module`` that holds one of ``parameters``, as path → name.

    SB3's policies register one feature extractor under three names. ``functional_call`` would then replace each of its
    parameters three times over, and put back the replacement instead of the original.
    """
    names = {id(p): name for name, p in parameters.items()}
    return {
        f"{path}.{attribute}" if path else attribute: names[id(p)]
        for path, child in module.named_modules()
        for attribute, p in child.named_parameters(recurse=False, remove_duplicate=False)
        if id(p) in names
    }


@contextmanager
def left_as_it_is(policy: nn.Module) -> Iterator[None]:
    """Within this context, a forward pass draws no random numbers and changes no buffers, such as those of BatchNorm."""
    buffers = [(buffer, buffer.clone()) for buffer in policy.buffers()]
    try:
        with th.random.fork_rng():
            yield
    finally:
        with th.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@contextmanager
def unvalidated(policy: nn.Module) -> Iterator[None]:
    """
    Within this context the distributions in a policy check no values, and after it they are as they were.

    Open it inside of other contexts that change torch's functions: it finds out which code calls a function.
    """
    with ExitStack() as stack:
        for module in policy.modules():
            if hasattr(module, "action_dist"):
                stack.enter_context(distribution_kept(module))  # type: ignore[arg-type]
        stack.enter_context(Unvalidated())
        yield


def check_traceable_over_sequences(policy: ActorCriticPolicy) -> None:
    """:raises NotCompilable: as :func:`check_traceable`, or there is no kernel for the policy's recurrent networks"""
    check_traceable(policy)
    for network in networks_of(policy).values() if is_recurrent(policy) else ():
        weights = next(network.parameters())
        if weights.device.type != "cpu" or weights.dtype != th.float32:
            kind = f"{str(weights.dtype).removeprefix('torch.')} on {weights.device}"
            raise NotCompilable(f"recurrent networks are compiled in float32 on the CPU, and the policy's are {kind}")


def check_traceable(policy: nn.Module) -> None:
    """:raises NotCompilable: a trace of the policy would not do what the policy does"""
    if next(iter(policy.buffers()), None) is not None:
        raise NotCompilable("the policy has buffers, which a layer such as BatchNorm changes while it is trained")
    if not hooks_are_found():
        raise NotCompilable("this version of torch keeps hooks in another place, and a graph would not call those of a layer")
    if any(has_hooks(module) for module in policy.modules()):
        raise NotCompilable("a layer or a parameter of the policy has hooks, which a graph would not call")
