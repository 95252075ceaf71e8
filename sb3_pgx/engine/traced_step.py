"""The gated step of an objective as a function of tensors alone, which can be traced."""

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.follower import follow
from sb3_pgx.engine.objective import BoundObjective
from sb3_pgx.engine.parameters import MovedParameters, ParametersInPlace
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.policy_function import PolicyFunction, check_traceable_over_sequences, laid_out
from sb3_pgx.engine.step import GatedParameters, OnDevice, gradient_step
from sb3_pgx.engine.trace import Function, NotCompilable
from sb3_pgx.parallel.reductions import packed, unpacked

Gradient = tuple[Sequence[Tensor], Sequence[Tensor]]  # metrics, and the pieces of the gradient


def traceable_step(
    bound: BoundObjective, policy: ActorCriticPolicy, plan: Plan, held: MovedParameters, batch: Rows
) -> Function:
    """
    :param bound: the objective
    :param policy: in training mode
    :param plan: its structure is built in, its numbers are not
    :param held: the parameters that move; its rule is built in
    :param batch: encoded, for the shapes
    :return: function of what ``held`` holds, the parameters that do not move, those of the follower, the plan's numbers, the
        step's flags and outcome, the rule's scalars, and the batch's tensors; it changes parameters, moments, follower, flags
        and outcome in place
    :raises NotCompilable: a trace would not do what the policy does
    """
    gradient, move = _parts(bound, policy, plan, held, batch)
    return lambda *tensors: move(gradient(*tensors), *tensors)


def traceable_halves(
    bound: BoundObjective, policy: ActorCriticPolicy, plan: Plan, held: MovedParameters, batch: Rows
) -> tuple[Function, Function]:
    """
    Return :func:`traceable_step` as two functions. The first one returns metrics and gradient in one vector; the second one
    takes such a vector before the other arguments. What happens in between is no part of a graph.
    """
    gradient, move = _parts(bound, policy, plan, held, batch)

    def second(numbers: Tensor, *tensors: Tensor) -> tuple[()]:
        return move(unpacked(numbers, len(bound.names), tensors[: len(held.pieces)]), *tensors)

    return lambda *tensors: (packed(*gradient(*tensors)),), second


def _parts(
    bound: BoundObjective, policy: ActorCriticPolicy, plan: Plan, held: MovedParameters, batch: Rows
) -> tuple[Callable[..., Gradient], Callable[..., tuple[()]]]:
    """Return a function of a step's tensors that computes the gradient, and one of the gradient and them that moves."""
    for each in (policy, *bound.followers):
        check_traceable_over_sequences(each)
    named = dict(policy.named_parameters())
    of_follower = {f"follower.{name}": p for each in bound.followers for name, p in each.named_parameters()}
    if {id(p) for p in named.values()} & {id(p) for p in of_follower.values()}:
        raise NotCompilable("the policy and the one that follows it share a parameter")
    measure = PolicyFunction(bound.measure, policy, named | of_follower, bound.followers)
    names = {id(p): name for name, p in named.items()}
    moved = {names[id(p)]: p for p in held.parameters}
    fixed = [name for name in named if name not in moved]
    shapes = [p.shape for p in moved.values()]
    flat = not isinstance(held, ParametersInPlace)
    n, n_held = len(held.pieces), len(held.pieces) + len(held.moments)

    def by_name(pieces: Sequence[Tensor]) -> dict[str, Tensor]:
        if flat:
            pieces = pieces[0].split([shape.numel() for shape in shapes])
        return {name: x.view(shape) for name, x, shape in zip(moved, pieces, shapes, strict=True)}

    def taken_apart(tensors: Sequence[Tensor]) -> tuple[list[Sequence[Tensor]], dict[str, Tensor], dict[str, Tensor], Any]:
        left = iter(tensors[n_held:])
        values, following = ({name: next(left) for name in given} for given in (fixed, of_follower))
        return [tensors[i : i + n] for i in range(0, n_held, n)], values, following, left

    def gradient(*tensors: Tensor) -> Gradient:
        (theta, *_), values, following, (numbers, _, _, _, *of_batch) = taken_apart(tensors)
        leaves = [x.detach().requires_grad_(True) for x in theta]
        with th.enable_grad():
            coefficients = plan.unpack(numbers.unbind())[1]
            measured = measure(laid_out(values | by_name(leaves) | following), batch.replaced(of_batch), coefficients)
            return bound.metrics(measured), th.autograd.grad(measured["loss"], leaves)

    def move(found: Gradient, *tensors: Tensor) -> tuple[()]:
        (theta, *moments), values, following, (numbers, flags, outcome, row, *_) = taken_apart(tensors)
        limits, coefficients = plan.unpack(numbers.unbind())
        with th.no_grad():
            place = OnDevice(flags, outcome)
            parameters = GatedParameters(held.rule, theta, moments, row.unbind(), held.irrevocable)
            go = gradient_step(place, parameters, *found, limits, bound.distance, plan.adapt)
            if bound.objective.follows is not None:
                led = values | by_name(place.reached)
                pairs = [(x, led[name.removeprefix("follower.")]) for name, x in following.items()]
                follow(pairs, bound.objective.follows, coefficients, go)
        return ()

    return gradient, move
