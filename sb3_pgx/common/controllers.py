"""Controllers: numbers that adapt to what an update did, and that are saved with the model."""

import math

# β halves or doubles once an iteration: from either end it is back at 1 within ten of them.
KL_COEF_BOUNDS = (1e-3, 1e3)


def adapted_kl_coef(kl_coef: float, kl: float, target_kl: float, tolerance: float, factor: float) -> float:
    """
    β of the next iteration (Schulman et al., 2017, §4): divided by ``factor`` where the policy moved less than the target over
    ``tolerance``, multiplied where it moved more than ``tolerance`` times the target.

    :param kl_coef: β of the iteration that is over
    :param kl: mean KL(π_old‖π) over its batch
    :param target_kl: the divergence to aim at
    :param tolerance: greater than 1
    :param factor: greater than 1
    :return: within :data:`KL_COEF_BOUNDS`; β itself where ``kl`` is not a number
    """
    if math.isnan(kl):
        return kl_coef
    if kl < target_kl / tolerance:
        kl_coef = kl_coef / factor
    elif kl > target_kl * tolerance:
        kl_coef = kl_coef * factor
    low, high = KL_COEF_BOUNDS
    return min(max(kl_coef, low), high)
