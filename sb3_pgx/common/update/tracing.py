"""The gated step of an objective as a function of tensors alone, which can be traced."""

from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.func import functional_call

from sb3_pgx.common.compiling import Function, NotCompilable
from sb3_pgx.common.distributions import distribution_kept, takes_one_hot
from sb3_pgx.common.rollout import Batch
from sb3_pgx.common.scores import parameter_places
from sb3_pgx.common.update.plan import Plan
from sb3_pgx.common.update.rules import Rule
from sb3_pgx.common.update.step import gated_step

if TYPE_CHECKING:
    from sb3_pgx.common.update.steps import GradientSteps


def traceable_step(steps: "GradientSteps", policy: ActorCriticPolicy, plan: Plan, rule: type[Rule], batch: Batch) -> Function:
    """
    :param steps: whose objective it is, and which parameters move
    :param policy: in training mode
    :param plan: its structure is built in, its numbers are not
    :param rule: the optimizer's
    :param batch: one-hot encoded, for the shapes
    :return: function of θ, report, the rule's scalars, the plan's numbers, moments, the parameters that do not move, and the
        batch's tensors; it changes θ, moments and report in place
    :raises NotCompilable: a trace would not do what the policy does
    """
    if next(iter(policy.buffers()), None) is not None:
        raise NotCompilable("the policy has buffers, which a layer such as BatchNorm changes while it is trained")
    module = _Measure(steps, policy)
    named = dict(policy.named_parameters())
    places = parameter_places(module, named)
    names = {id(p): name for name, p in named.items()}
    moved = {names[id(p)]: p for p in steps.used}
    fixed = [name for name in named if name not in moved]
    sizes = [p.numel() for p in moved.values()]
    n_moments, n_fixed = len(rule.moments), len(fixed)

    def step(theta: Tensor, report: Tensor, row: Tensor, numbers: Tensor, *rest: Tensor) -> tuple[()]:
        moments, others, tensors = rest[:n_moments], rest[n_moments : n_moments + n_fixed], rest[n_moments + n_fixed :]
        limits, coefficients = plan.unpack(numbers.unbind())
        leaf = theta.detach().requires_grad_(True)
        with th.enable_grad():
            pieces = {name: x.view_as(p) for (name, p), x in zip(moved.items(), leaf.split(sizes), strict=True)}
            values = {**pieces, **dict(zip(fixed, others, strict=True))}
            replaced = {place: values[name] for place, name in places.items()}
            measured = functional_call(module, replaced, (batch.replaced(tensors), coefficients), tie_weights=False)
            (gradient,) = th.autograd.grad(measured["loss"], leaf)
        with th.no_grad():
            parts = [measured[name] for name in steps.names]
            gated_step(
                rule, report, theta, moments, gradient, parts, steps.distance(measured), limits, row.unbind(), plan.adapt
            )
        return ()

    def leaving_no_trace(*tensors: Tensor) -> tuple[()]:
        with distribution_kept(policy), takes_one_hot(policy):
            return step(*tensors)

    return leaving_no_trace


class _Measure(nn.Module):
    """``functional_call`` calls ``forward``."""

    def __init__(self, steps: "GradientSteps", policy: ActorCriticPolicy):
        super().__init__()
        self.policy, self._measure = policy, steps.measure

    def forward(self, batch: Batch, coefficients: Any) -> dict[str, Tensor]:
        return self._measure(self.policy, batch, coefficients)
