"""Controllers: numbers that adapt to what an update did, and that are saved with the model."""

import math

import torch as th
from torch import Tensor

from sb3_pgx.core.checks import check_positive

# Below this, the divergence of a policy that has not moved is rounding.
_KL_NOISE = 1e-7

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


class KLAdaptiveLearningRate:
    """
    A learning rate that follows the KL divergence, as in rsl_rl (Rudin et al., 2022): before each step it is divided by
    ``factor`` where the minibatch's divergence from the policy that acted exceeds twice the target, and multiplied where it is
    below half of it.

    Pass it as ``learning_rate`` to PPO, which measures the divergence by its estimate ``approx_kl``, or to PPOPenalty, which
    measures it exactly. Each model has its own copy; ``model.learning_rate.value`` is the current rate, which is saved.

    :param value: at the start
    :param target_kl: to aim at
    :param factor: greater than 1
    :param low: least rate
    :param high: greatest rate
    :raises ValueError: an argument makes no sense
    """

    def __init__(
        self, value: float = 3e-4, target_kl: float = 0.01, factor: float = 1.5, low: float = 1e-5, high: float = 1e-2
    ):
        check_positive(value=value, target_kl=target_kl, factor=factor, low=low, high=high)
        if not factor > 1:
            raise ValueError(f"factor={factor} must be greater than 1")
        if not low <= value <= high:
            raise ValueError(f"value={value} must lie between low={low} and high={high}")
        self.value, self.target_kl, self.factor, self.low, self.high = value, target_kl, factor, low, high

    def __call__(self, progress_remaining: float) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"KLAdaptiveLearningRate({self.value:g}, target_kl={self.target_kl:g})"

    @property
    def numbers(self) -> tuple[float, ...]:
        """What :func:`adapted_scale` needs besides the factor and the divergence."""
        return self.target_kl, self.factor, self.low / self.value, self.high / self.value

    def scaled(self, scale: float) -> None:
        """Take over the factor that an update has ended with."""
        self.value = min(max(self.value * scale, self.low), self.high)


def adapted_scale(scale: Tensor, kl: Tensor, target_kl: Tensor, factor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """
    The factor of the learning rate for the next step; all tensors without dimensions, or numbers but for the first two.

    :param scale: the factor so far
    :param kl: divergence of a minibatch
    :param target_kl: to aim at
    :param factor: of a change
    :param low: least factor
    :param high: greatest factor
    """
    slower, faster = (scale / factor).clamp(min=low), (scale * factor).clamp(max=high)
    return th.where(kl > 2 * target_kl, slower, th.where((kl < target_kl / 2) & (kl > _KL_NOISE), faster, scale))
