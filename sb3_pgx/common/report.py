"""Stage 5: what an update measured, as numbers, and to whom it is told."""

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback
from torch import Tensor

Metrics = dict[str, Tensor | float]


def read(metrics: Metrics) -> dict[str, float]:
    """All metrics as numbers, with one transfer from the device."""
    tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
    numbers = th.stack([value.detach().float() for value in tensors.values()]).tolist() if tensors else []
    return {**metrics, **dict(zip(tensors, numbers, strict=True))}


def notify_update_end(callback: BaseCallback | None, metrics: dict[str, float]) -> None:
    """Call ``on_update_end(metrics)`` on every callback of a tree that defines it."""
    hook = getattr(callback, "on_update_end", None)
    if hook is not None:
        hook(metrics)
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            notify_update_end(child, metrics)
    elif isinstance(callback, EventCallback):
        notify_update_end(callback.callback, metrics)
        notify_update_end(getattr(callback, "callback_on_new_best", None), metrics)
