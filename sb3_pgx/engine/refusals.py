"""The errors for gradient steps that are refused because something in them is not finite."""

from collections.abc import Mapping

import torch as th
from torch import Tensor
from torch.optim import Optimizer

from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.parameters import bad_state

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
        raise step_refusal(f"the optimizer's {bad[1]} of {name} is not finite", update, BAD_STATE)


def led_astray(update: int) -> Refusal:
    """The error for a step whose gradient was finite, and whose result is not."""
    return step_refusal("the gradient step leads to parameters or optimizer states that are not finite", update)


def of_another_process(update: int) -> Refusal:
    """The error for a step of several processes whose gradient is finite in this one."""
    return step_refusal("a number of another process, which names it, or the step's result is not finite", update)


def not_finite(quantities: Mapping[str, Tensor], update: int, causes: str = CAUSES) -> Refusal:
    """
    The error for a step that was refused.

    :param quantities: by name, causes before effects; the first one that is not finite is named
    :param update: updates done so far
    :param causes: and their remedies
    """
    bad = next((name for name, x in quantities.items() if not th.isfinite(x).all()), "norm of the gradient")
    value = quantities[bad].item() if bad in quantities and quantities[bad].dim() == 0 else "not finite"
    return step_refusal(f"the {bad} {'are' if bad in ('advantages', 'returns') else 'is'} {value}", update, causes)


def step_refusal(what: str, update: int, causes: str = CAUSES) -> Refusal:
    """The error for a step that was not taken; with it, the algorithm undoes all that the rollout has changed."""
    return Refusal(
        f"{what} in update {update + 1}; the step was not taken, and the model is as it was before this rollout. "
        f"Likely causes: {causes}."
    )
