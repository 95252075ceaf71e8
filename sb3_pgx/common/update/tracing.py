"""The gated step of an objective as a function of tensors alone, which can be traced."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.common.compiling import Function
from sb3_pgx.common.functional import PolicyFunction, check_traceable, laid_out
from sb3_pgx.common.rollout import Rows
from sb3_pgx.common.update.flat import Held, InPlace
from sb3_pgx.common.update.plan import Plan
from sb3_pgx.common.update.step import gated_step

if TYPE_CHECKING:
    from sb3_pgx.common.update.steps import GradientSteps


def traceable_step(steps: "GradientSteps", policy: ActorCriticPolicy, plan: Plan, held: Held, batch: Rows) -> Function:
    """
    :param steps: whose objective it is, and which parameters move
    :param policy: in training mode
    :param plan: its structure is built in, its numbers are not
    :param held: the parameters that move; its rule is built in
    :param batch: one-hot encoded, for the shapes
    :return: function of what ``held`` holds, report, the rule's scalars, the plan's numbers, the parameters that do not move,
        and the batch's tensors; it changes parameters, moments and report in place
    :raises NotCompilable: a trace would not do what the policy does
    """
    check_traceable(policy)
    named = dict(policy.named_parameters())
    measure = PolicyFunction(steps.measure, policy, named)
    names = {id(p): name for name, p in named.items()}
    moved = {names[id(p)]: p for p in held.parameters}
    fixed = [name for name in named if name not in moved]
    shapes = [p.shape for p in moved.values()]
    flat = not isinstance(held, InPlace)
    n, n_fixed = 1 if flat else len(moved), len(fixed)
    n_held = n * (1 + len(held.rule.moments))

    def step(*tensors: Tensor) -> tuple[()]:
        theta, *moments = [tensors[i : i + n] for i in range(0, n_held, n)]
        report, row, numbers, *rest = tensors[n_held:]
        limits, coefficients = plan.unpack(numbers.unbind())
        leaves = [x.detach().requires_grad_(True) for x in theta]
        with th.enable_grad():
            pieces = leaves[0].split([shape.numel() for shape in shapes]) if flat else leaves
            named_pieces = {name: x.view(shape) for name, x, shape in zip(moved, pieces, shapes, strict=True)}
            values = {**named_pieces, **dict(zip(fixed, rest[:n_fixed], strict=True))}
            measured = measure(laid_out(values), batch.replaced(rest[n_fixed:]), coefficients)
            gradient = th.autograd.grad(measured["loss"], leaves)
        with th.no_grad():
            parts = [measured[name] for name in steps.names]
            distance = steps.distance(measured)
            gated_step(held.rule, report, theta, moments, gradient, parts, distance, limits, row.unbind(), plan.adapt)
        return ()

    return step
