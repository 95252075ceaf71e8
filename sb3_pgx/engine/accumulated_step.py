"""A gradient step on gradients that were accumulated over chunks, for REINFORCE and REINFORCEBaseline."""

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from sb3_pgx.engine.parameters import SteppedByOptimizer
from sb3_pgx.engine.refusals import check_state, led_astray, not_finite
from sb3_pgx.engine.step import OnHost, gradient_step
from sb3_pgx.engine.step_log import Progress


def accumulated_step(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], max_grad_norm: float | None, loss: Tensor, update: int
) -> dict[str, float]:
    """
    Clip the gradients that have been accumulated, step, and clear them.

    :param optimizer: parameters without a gradient stay as they are, moments included
    :param parameters: those that the step may move, by name
    :param max_grad_norm: norm to clip to; ``None``: no clipping
    :param loss: the loss behind the gradients
    :param update: updates done so far, for the error
    :return: ``grad_norm``, before clipping, and ``grad_clipped``, whether it was clipped
    :raises Refusal: loss, gradient or the optimizer's state is not finite, and the parameters are unchanged; or the step has
        led to parameters that are not finite
    """
    check_state(optimizer, parameters, update)
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    held = SteppedByOptimizer([parameters[name] for name in gradients], optimizer)
    host = OnHost(Progress())
    limits = (math.inf if max_grad_norm is None else max_grad_norm, math.inf)
    taken = gradient_step(host, held, [loss.detach()], list(gradients.values()), limits)
    optimizer.zero_grad(set_to_none=True)
    if not taken:
        raise not_finite({"loss": loss, **{f"gradient of {name}": g for name, g in gradients.items()}}, update)
    if not held.is_finite():
        raise led_astray(update)
    _, norm, clipped = host.outcomes[-1]
    return {"grad_norm": norm, "grad_clipped": clipped}
