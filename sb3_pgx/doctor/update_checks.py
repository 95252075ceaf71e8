"""Checks of the updates themselves: stored log-probabilities, and how far a single update moves the policy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx.doctor.probes import Answer

MAX_LOG_RATIO = 1e-3  # about ten times the rounding error of float32


class StoredLogProb(BaseCallback):
    """
    Compare the stored log-probabilities with those of the policy that acted, at the end of each rollout.

    The policy that acted is the current policy until the update, so the importance ratios of the first minibatch must be 1.
    """

    name = "stored log-probability"
    suspect = (
        "the stored log-probabilities are not those of the sampled actions under the policy that sampled them: they are of "
        "another policy or of clipped actions, or Dropout or BatchNorm was in another mode"
    )

    def __init__(self) -> None:
        super().__init__()
        self.largest = math.nan  # until the first rollout ends

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        observations, actions, stored = (
            th.as_tensor(x).flatten(end_dim=1) for x in (buffer.observations, buffer.actions, buffer.log_probs)
        )
        if isinstance(self.model.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        with th.no_grad():
            log_prob = self.model.policy.evaluate_actions(observations, actions)[1]  # type: ignore[operator]
        self.largest = float(np.fmax(self.largest, (log_prob - stored.flatten()).abs().max().item()))

    def answer(self) -> Answer:
        """Return the largest difference over all rollouts so far."""
        asked = "largest |log π(a|s) − stored|"
        return Answer(asked, self.largest, f"0, at most {MAX_LOG_RATIO:g}", self.largest <= MAX_LOG_RATIO)


@dataclass(frozen=True)
class Bound:
    """
    A limit on how far one update may move the policy.

    :param asked: what is measured, in words
    :param measure: function of the action probabilities before and after the update
    :param most: function of the model that returns the largest value that its settings allow
    :param hyperparameters: settings under which the algorithm would exceed the limit if it did not enforce it
    """

    asked: str
    measure: Callable[[Sequence[float], Sequence[float]], float]
    most: Callable[[Any], float]
    hyperparameters: dict[str, Any]

    def answer(self, model: Any, before: Sequence[float], after: Sequence[float]) -> Answer:
        """
        Return whether the first update of a model stayed within the limit.

        :param model: model after its first update
        :param before: action probabilities before the update, ``[A]``
        :param after: action probabilities after the update, ``[A]``
        """
        measured, most = self.measure(before, after), self.most(model)
        return Answer(self.asked, measured, f"at most {most:.3g}", measured <= most)


UPDATE_SUSPECT = (
    "the update does not compare with the policy that acted but with another one, such as the new policy, so that the clip "
    "range or the trust region has no effect"
)


def _largest_ratio(before: Sequence[float], after: Sequence[float]) -> float:
    return max(new / old for old, new in zip(before, after, strict=True))


def _divergence(before: Sequence[float], after: Sequence[float]) -> float:
    """Return KL(old‖new) in nats, infinite if an action has lost all of its probability."""
    return sum(old * math.log(old / new) if new > 0 else math.inf for old, new in zip(before, after, strict=True))


# Plain gradient descent stops as soon as the clipped surrogate is flat. Unclipped, the 40 steps would reach a ratio of 2.
CLIP = Bound(
    "largest ratio after one update",
    _largest_ratio,
    lambda model: 1 + 1.5 * model.clip_range(1.0),
    dict(
        n_steps=16,
        batch_size=256,
        n_epochs=40,
        learning_rate=0.3,
        policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.SGD),
    ),
)
TRUST_REGION = Bound("KL(old‖new) after one update", _divergence, lambda model: 1.5 * model.target_kl, dict(n_steps=16))
# A learning rate at which the trust region, and nothing else, limits the step.
KRONECKER_TRUST_REGION = Bound(TRUST_REGION.asked, _divergence, TRUST_REGION.most, dict(n_steps=16, learning_rate=100.0))
TRUST_REGION_WITHOUT_SEARCH = Bound(
    TRUST_REGION.asked, _divergence, TRUST_REGION.most, dict(n_steps=16, step_rule="kl", target_kl=0.01)
)
