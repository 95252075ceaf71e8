"""Hidden units that no longer take part: saturated where they are bounded, dormant where they are rectified."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_pgx.diagnostics.measures import Measured

SATURATED = 0.99  # |h| beyond which a tanh hardly passes a gradient on: its derivative is below 0.02
DORMANT = 0.025  # share of its layer's mean activity below which a unit counts as dormant (Sokar et al., 2023)
BOUNDED = (nn.Tanh,)
RECTIFIED = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.ReLU6, nn.Mish)


@contextmanager
def activity(policy: nn.Module) -> Iterator[Measured]:
    """
    Collects while the policy is evaluated in the context what its activation layers give; the metrics are there at its end:
    the share of outputs of tanh layers beyond 0.99, and the share of rectified units whose mean |h| over the rows is at most
    0.025 times the mean over their layer (Sokar et al., 2023, "The dormant neuron phenomenon", eq. 1).
    """
    sizes: dict[tuple[nn.Module, int], list[Tensor]] = {}  # Σ |h| of each unit, by layer; one may serve at two widths
    saturated, outputs = [], 0

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal outputs
        h = output.detach().abs().flatten(start_dim=1)  # [B, units]
        if isinstance(module, BOUNDED):
            saturated.append((h > SATURATED).sum())
            outputs += h.numel()
        else:
            sizes.setdefault((module, h.shape[1]), []).append(h.sum(dim=0))

    hooks = [m.register_forward_hook(keep) for m in policy.modules() if isinstance(m, BOUNDED + RECTIFIED)]
    measured: Measured = {}
    try:
        yield measured
    finally:
        for hook in hooks:
            hook.remove()
    if outputs:
        measured["saturated_units"] = th.stack(saturated).sum() / outputs
    if sizes:
        layers = [th.stack(parts).sum(dim=0) for parts in sizes.values()]
        measured["dormant_units"] = th.cat([h <= DORMANT * h.mean() for h in layers]).float().mean()
