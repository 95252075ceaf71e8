"""What gradient steps descend on: a loss and its metrics as pure functions of what a policy says of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.evaluation import Evaluation, evaluate_actions, evaluate_latents, predict_values
from sb3_pgx.core.rollout import Batch
from sb3_pgx.engine.follower import FollowerRule
from sb3_pgx.engine.plain_networks import PlainNetworks


def evaluated(policy: ActorCriticPolicy, batch: Batch) -> Evaluation:
    """Evaluate a batch; return the distribution, too, if the batch has that of the behaviour policy."""
    return evaluate_actions(policy, batch.inputs, batch.actions, batch.distribution is not None)


def evaluated_plainly(networks: PlainNetworks, policy: ActorCriticPolicy, batch: Batch) -> Evaluation:
    """Return the same as :func:`evaluated`, faster where the batch is small."""
    inputs = batch.inputs
    latents = networks.latents(inputs.observations)
    return evaluate_latents(policy, latents, inputs.action_masks, batch.actions, batch.distribution is not None)


def evaluated_values(policy: ActorCriticPolicy, batch: Batch) -> Tensor:
    """Return V of the batch's observations, without evaluating actions, ``[B]``."""
    return predict_values(policy, batch.inputs)


@dataclass(frozen=True)
class Objective:
    """
    A loss and its metrics, on which gradient steps descend.

    :param measure: pure function of what ``evaluate`` gave, the batch and the coefficients: the scalar ``"loss"`` and whatever
        else is to be measured, scalars, too
    :param evaluate: function of the policy, the batch and the follower, if there is one; its result is the first argument of
        ``measure``
    :param distance: name of the metric that says how far the policy has moved from the one that acted
    :param reads_distribution: whether ``measure`` needs the parameters of the action distribution, now and when it acted
    :param critic_only: parameters that the action distribution depends on stay as they are
    :param follows: how a second policy follows the one that is trained, after each step
    """

    measure: Callable[[Any, Any, Any], dict[str, Tensor]]
    evaluate: Callable[..., Any] = evaluated
    distance: str | None = None
    reads_distribution: bool = False
    critic_only: bool = False
    follows: FollowerRule | None = None


@dataclass(frozen=True)
class BoundObjective:
    """
    An objective, the policies that follow the trained one, and the names of the metrics.

    :param objective: the loss and its metrics
    :param followers: no policy or one, which the objective reads
    :param names: of the metrics, ``"loss"`` first
    :param networks: the policy's, if an eager step can evaluate them plainly
    """

    objective: Objective
    followers: Sequence[ActorCriticPolicy]
    names: Sequence[str]
    networks: PlainNetworks | None = None

    def measure(self, policy: ActorCriticPolicy, batch: Any, coefficients: Any) -> dict[str, Tensor]:
        """
        Return the metrics at the policy's parameters, among them ``"loss"``.

        :param policy: in training mode
        :param batch: rows of a rollout
        :param coefficients: of the objective, as numbers or as tensors
        """
        now = self.objective.evaluate(policy, batch, *self.followers)
        return self.objective.measure(now, batch, coefficients)

    def measure_eagerly(self, policy: ActorCriticPolicy, batch: Any, coefficients: Any) -> dict[str, Tensor]:
        """Return :meth:`measure`, outside of a trace."""
        if self.networks is None:
            return self.measure(policy, batch, coefficients)
        return self.objective.measure(evaluated_plainly(self.networks, policy, batch), batch, coefficients)

    @property
    def distance(self) -> int | None:
        """Place of the distance among the metrics; ``None`` if the objective does not measure it."""
        return None if self.objective.distance is None else self.names.index(self.objective.distance)

    def metrics(self, measured: dict[str, Tensor]) -> list[Tensor]:
        """Return the metrics in the order of ``names``."""
        return [measured[name] for name in self.names]
