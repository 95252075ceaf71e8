"""Measure hidden units that hardly take part: saturated tanh units and dormant rectified units."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_pgx.diagnostics.update_metrics import Measured

SATURATED = 0.99  # a tanh unit is saturated if |h| is greater; its derivative is below 0.02 there
DORMANT = 0.025  # a unit is dormant up to this share of its layer's mean activity (Sokar et al., 2023)
BOUNDED = (nn.Tanh,)
RECTIFIED = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.ReLU6, nn.Mish)


@contextmanager
def measure_dead_units(policy: nn.Module) -> Iterator[Measured]:
    """
    Measure the activation layers of a policy that is evaluated inside the context.

    The metrics are available when the context ends. ``saturated_units`` is the share of the outputs of tanh layers beyond
    ±0.99. ``dormant_units`` is the share of rectified units whose mean |h| over the rows is at most 0.025 times the mean over
    their layer (Sokar et al., 2023, "The dormant neuron phenomenon", eq. 1). A metric is missing if there are no such layers.

    :param policy: module whose activation layers are measured
    """
    activity: dict[
        tuple[nn.Module, int], list[Tensor]
    ] = {}  # Σ |h| per unit, by layer and width: a layer may serve two widths
    saturated, outputs = [], 0

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal outputs
        h = output.detach().abs().flatten(start_dim=1)  # [B, units]
        if isinstance(module, BOUNDED):
            saturated.append((h > SATURATED).sum())
            outputs += h.numel()
        else:
            activity.setdefault((module, h.shape[1]), []).append(h.sum(dim=0))

    hooks = [m.register_forward_hook(add) for m in policy.modules() if isinstance(m, BOUNDED + RECTIFIED)]
    measured: Measured = {}
    try:
        yield measured
    finally:
        for hook in hooks:
            hook.remove()
    if outputs:
        measured["saturated_units"] = th.stack(saturated).sum() / outputs
    if activity:
        layers = [th.stack(parts).sum(dim=0) for parts in activity.values()]
        measured["dormant_units"] = th.cat([h <= DORMANT * h.mean() for h in layers]).float().mean()
