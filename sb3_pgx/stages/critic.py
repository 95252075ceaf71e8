"""The critic on its own: regression of V on the returns of a rollout."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.engine import Objective, evaluated_values

if TYPE_CHECKING:
    from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm


class CriticCoefficients(NamedTuple):
    """The critic's loss has none."""


def critic_objective(values: Tensor, batch: Batch, c: CriticCoefficients) -> dict[str, Tensor]:
    """Mean squared error of V under ``"loss"``."""
    return {"loss": F.mse_loss(values, batch.returns.to(values))}


CRITIC_OBJECTIVE = Objective(critic_objective, evaluated_values, critic_only=True)


def fit_critic(algorithm: "PolicyGradientAlgorithm", rollout: Rollout, batch_size: int, n_epochs: int) -> dict[str, float]:
    """
    Steps of the policy's optimizer on the critic alone; parameters that the action distribution depends on stay.

    :param algorithm: whose ``objective`` is that of the critic
    :param rollout: estimated
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over the rollout
    :return: means of ``value_loss`` and ``critic_grad_norm``
    """
    with algorithm.gradient_steps(CriticCoefficients(), min(batch_size, rollout.n_valid)) as steps:
        for _ in range(n_epochs):
            steps.epoch(algorithm.minibatches(rollout, batch_size))
    measured = steps.means()
    return {"value_loss": measured["loss"], "critic_grad_norm": measured["grad_norm"]}
