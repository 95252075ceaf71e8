"""An eager gradient step on gradients that were accumulated over chunks, for REINFORCE and REINFORCEBaseline."""

import math
from collections.abc import Mapping

import torch as th
from torch import Tensor
from torch.optim import Optimizer

from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.parameters import all_finite, bad_state


def gradient_step(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], max_grad_norm: float | None, loss: Tensor, update: int
) -> dict[str, Tensor]:
    """
    Clip the gradients that have been accumulated, step, and clear them.

    :param optimizer: parameters without a gradient stay as they are, moments included
    :param parameters: those that the step may move, by name
    :param max_grad_norm: norm to clip to; ``None``: no clipping
    :param loss: the loss behind the gradients, for the error
    :param update: updates done so far, for the error
    :return: ``grad_norm``, before clipping, and ``grad_clipped``, whether it was clipped
    :raises Refusal: loss, gradient or the optimizer's state is not finite, and the parameters are unchanged; or the step has
        led to parameters that are not finite
    """
    check_state(optimizer, parameters, update)
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = th.nn.utils.get_total_norm(gradients)
    if not th.isfinite(th.stack([norm, loss.detach().to(norm)])).all():
        error = not_finite({"loss": loss, **gradients_of(parameters)}, update)
        optimizer.zero_grad(set_to_none=True)
        raise error
    if max_grad_norm is not None:
        th.nn.utils.clip_grads_with_norm_(parameters.values(), max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not all(map(all_finite, parameters.values())):
        raise led_astray(update)
    return {"grad_norm": norm, "grad_clipped": norm > (math.inf if max_grad_norm is None else max_grad_norm)}


def gradients_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the accumulated gradients by the names that an error gives them."""
    return {f"gradient of {name}": p.grad for name, p in parameters.items() if p.grad is not None}


# Of a step by an optimizer that was refused.
CAUSES = (
    "learning_rate too high (lower it, set max_grad_norm), rewards or observations of huge size (wrap the environment in "
    "VecNormalize), a collapsed standard deviation (policy_kwargs=dict(log_std_bounds=(-20, 2)))"
)
# Of an optimizer that had it before.
BAD_STATE = (
    "a callback or a loaded file has put it there (load an earlier file, or let the optimizer start afresh with "
    "model.policy.optimizer.state.clear())"
)


def check_state(optimizer: Optimizer, parameters: Mapping[str, Tensor], update: int) -> None:
    """:raises Refusal: what the optimizer keeps for the parameters is not finite"""
    bad = bad_state(optimizer, parameters.values())
    if bad is not None:
        name = next(name for name, p in parameters.items() if p is bad[0])
        raise refused(f"the optimizer's {bad[1]} of {name} is not finite", update, BAD_STATE)


def led_astray(update: int) -> Refusal:
    """The error for finite gradients that led to what is not finite."""
    return refused("the gradient step leads to parameters or optimizer states that are not finite", update)


def not_finite(quantities: Mapping[str, Tensor], update: int, causes: str = CAUSES) -> Refusal:
    """
    The error for a step that was refused.

    :param quantities: by name, causes before effects; the first one that is not finite is named
    :param update: updates done so far
    :param causes: and their remedies
    """
    bad = next((name for name, x in quantities.items() if not th.isfinite(x).all()), "norm of the gradient")
    value = quantities[bad].item() if bad in quantities and quantities[bad].dim() == 0 else "not finite"
    return refused(f"the {bad} {'are' if bad in ('advantages', 'returns') else 'is'} {value}", update, causes)


def refused(what: str, update: int, causes: str = CAUSES) -> Refusal:
    """The error for a step that was not taken; with it, the algorithm undoes all that the rollout has changed."""
    return Refusal(
        f"{what} in update {update + 1}; the step was not taken, and the model is as it was before this rollout. "
        f"Likely causes: {causes}."
    )
