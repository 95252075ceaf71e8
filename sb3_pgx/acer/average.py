"""The average policy, around which the trust region lies."""

import torch as th

from sb3_pgx.common.modules import Modules


def follow(average: Modules, policy: Modules, coef: float) -> None:
    """
    θ_a ← α θ_a + (1 − α) θ, buffers included; whole numbers among them are copied.

    :param average: as it was looked at last; changed in place
    :param policy: of the same structure
    :param coef: α
    """
    with th.no_grad():
        pairs = [*zip(average.tensors(), policy.tensors(), strict=True)]
        fractions = [(a, x) for a, x in pairs if a.is_floating_point()]
        th._foreach_lerp_([a for a, _ in fractions], [x for _, x in fractions], 1 - coef)
        for a, x in pairs:
            if not a.is_floating_point():
                a.copy_(x)
