"""Hidden units that no longer take part: saturated where they are bounded, dormant where they are rectified."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_pgx.callbacks.measures import Measured

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
    sizes: dict[tuple[nn.Module, int], list[Tensor]] = {}  # one layer may serve at two widths

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        h = output.detach().abs().flatten(start_dim=1)
        sizes.setdefault((module, h.shape[1]), []).append(h)

    layers = [module for module in policy.modules() if isinstance(module, BOUNDED + RECTIFIED)]
    hooks = [module.register_forward_hook(keep) for module in layers]
    measured: Measured = {}
    try:
        yield measured
    finally:
        for hook in hooks:
            hook.remove()
    seen = [(module, th.cat(parts)) for (module, _), parts in sizes.items()]  # [B, units]
    bounded = [h > SATURATED for module, h in seen if isinstance(module, BOUNDED)]
    if bounded:
        measured["saturated_units"] = th.cat([x.flatten() for x in bounded]).float().mean()
    rectified = [h.mean(dim=0) for module, h in seen if isinstance(module, RECTIFIED)]
    if rectified:
        measured["dormant_units"] = th.cat([h <= DORMANT * h.mean() for h in rectified]).float().mean()
