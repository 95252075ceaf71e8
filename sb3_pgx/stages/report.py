"""Stage 5: read the metrics of an update, and notify callbacks."""

from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback
from torch import Tensor

from sb3_pgx.core.errors import warn

Metrics = dict[str, Tensor | float]


def read(metrics: Metrics) -> dict[str, float]:
    """Return all metrics as numbers, with one transfer from the device."""
    tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
    numbers = th.stack([value.detach().float() for value in tensors.values()]).tolist() if tensors else []
    return {**metrics, **dict(zip(tensors, numbers, strict=True))}


def notify(callback: BaseCallback | None, hook: str, what: Any) -> None:
    """Call ``hook`` (``on_update_end``, ``on_training_error``) with ``what`` on every callback of a tree that defines it."""
    method = getattr(callback, hook, None)
    if method is not None:
        method(what)
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            notify(child, hook, what)
    elif isinstance(callback, EventCallback):
        notify(callback.callback, hook, what)
        notify(getattr(callback, "callback_on_new_best", None), hook, what)


def notify_of_error(callback: BaseCallback | None, error: Exception) -> None:
    """Call ``on_training_error``. A callback that fails there must not hide the error that ended the run."""
    try:
        notify(callback, "on_training_error", error)
    except Exception as failure:
        warn(f"on_training_error of a callback failed with {type(failure).__name__}: {failure}")
