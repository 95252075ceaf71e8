"""What differs between the versions of torch that pyproject.toml allows, where SB3 or sb3-contrib differ with it."""

import torch as th
from torch.nn import functional as F


def clamp_passes_gradients_at_its_bounds() -> bool:
    """SB3 clips ratios and values with ``clamp``. In torch 2.15, a number at a bound gets no gradient."""
    x = th.ones(1, requires_grad=True)
    return th.autograd.grad(x.clamp(1.0, 1.0).sum(), x)[0].item() == 1.0


def mse_loss_mixes_types() -> bool:
    """SB3 compares single with double precision where a buffer or a policy holds the latter. In torch 2.8 that fails."""
    try:
        F.mse_loss(th.ones(1, requires_grad=True), th.ones(1, dtype=th.float64)).backward()
    except RuntimeError:
        return False
    return True
