"""The gated step of an objective as a function of tensors alone, which can be traced."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.compiling import Function
from sb3_pgx.common.functional import PolicyFunction, check_traceable, laid_out
from sb3_pgx.common.rollout import Batch
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
    check_traceable(policy)
    named = dict(policy.named_parameters())
    measure = PolicyFunction(steps.measure, policy, named)
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
            measured = measure(laid_out(values), batch.replaced(tensors), coefficients)
            (gradient,) = th.autograd.grad(measured["loss"], leaf)
        with th.no_grad():
            parts = [measured[name] for name in steps.names]
            gated_step(
                rule, report, theta, moments, gradient, parts, steps.distance(measured), limits, row.unbind(), plan.adapt
            )
        return ()

    return step
