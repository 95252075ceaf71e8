"""Controllers: coefficients that adapt to the KL divergence of an update, and are saved with the model."""

import math

import torch as th
from torch import Tensor

from sb3_pgx.core.checks import check_positive

# A divergence below this is rounding: the policy has not moved.
_KL_NOISE = 1e-7

# β halves or doubles once per update, so from either bound it is back at 1 within ten updates.
KL_COEF_BOUNDS = (1e-3, 1e3)


def adapted_kl_coef(kl_coef: float, kl: float, target_kl: float, tolerance: float, factor: float) -> float:
    """
    Return β for the next update (Schulman et al., 2017, §4).

    β is divided by ``factor`` if the divergence was below target / tolerance, and multiplied if it was above target ·
    tolerance.

    :param kl_coef: β of the last update
    :param kl: mean KL(π_old‖π) over its batch, in nats
    :param target_kl: target divergence, in nats
    :param tolerance: factor > 1
    :param factor: factor > 1
    :return: β within :data:`KL_COEF_BOUNDS`; unchanged if ``kl`` is NaN
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
    A learning rate that adapts to the KL divergence, as in rsl_rl (Rudin et al., 2022).

    Before each gradient step, it is divided by ``factor`` if the minibatch's divergence from the policy that acted exceeds
    twice the target, and multiplied by ``factor`` if the divergence is below half the target.

    Pass it as ``learning_rate`` to PPO, which estimates the divergence (``approx_kl``), or to PPOPenalty, which computes it
    exactly. Each model has its own copy. ``model.learning_rate.value`` is the current rate and is saved with the model.

    :param value: initial learning rate. Typical: 1e-4 to 1e-3; it adapts quickly, so the start matters little
    :param target_kl: target divergence, in nats. Typical: 0.005 to 0.02. Larger values allow larger policy changes per update
    :param factor: factor > 1 of one change. Typical: 1.2 to 2. Larger values adapt faster and may oscillate
    :param low: smallest learning rate. Typical: 1e-6 to 1e-5. Larger values prevent learning from stalling
    :param high: largest learning rate. Typical: 1e-3 to 1e-2. Smaller values prevent divergence
    :raises ValueError: an argument is invalid
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
        """Return the constants of :func:`adapted_scale`: target, factor, smallest and largest scale."""
        return self.target_kl, self.factor, self.low / self.value, self.high / self.value

    def scaled(self, scale: float) -> None:
        """
        Multiply the learning rate by the scale with which an update ended.

        :param scale: result of the last :func:`adapted_scale`
        """
        self.value = min(max(self.value * scale, self.low), self.high)


def adapted_scale(scale: Tensor, kl: Tensor, target_kl: Tensor, factor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """
    Return the scale of the learning rate for the next gradient step. ``scale`` and ``kl`` are tensors without dimensions; the
    others are, too, or numbers.

    :param scale: scale so far
    :param kl: divergence of the minibatch
    :param target_kl: target divergence
    :param factor: factor of one change
    :param low: smallest scale
    :param high: largest scale
    """
    slower, faster = (scale / factor).clamp(min=low), (scale * factor).clamp(max=high)
    return th.where(kl > 2 * target_kl, slower, th.where((kl < target_kl / 2) & (kl > _KL_NOISE), faster, scale))
