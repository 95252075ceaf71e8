"""What no answer shows: whether the stored log-probabilities are the behaviour's, and how far one update moves the policy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx.doctor.questions import Answer

MAX_LOG_RATIO = 1e-3  # float32 rounds a tenth of it away


class StoredLogProb(BaseCallback):
    """
    Compares, at the end of each rollout, the log-probabilities that were stored with those of the policy that acted, which is
    the policy until the update: the importance ratio of the first minibatch has to be 1.
    """

    name = "stored log-probability"
    suspect = (
        "the stored log-probabilities are not of the actions that were drawn, under the policy that drew them: another "
        "policy's, of clipped actions, or computed with Dropout or BatchNorm in another mode"
    )

    def __init__(self) -> None:
        super().__init__()
        self.largest = math.nan  # until there is a rollout

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
        """The largest difference over all rollouts so far."""
        asked = "largest |log π(a|s) − stored|"
        return Answer(asked, self.largest, f"0, at most {MAX_LOG_RATIO:g}", self.largest <= MAX_LOG_RATIO)


@dataclass(frozen=True)
class Bound:
    """
    How far an update may move the policy: what is measured between the probabilities before and after it, the most that the
    algorithm's own settings allow, and settings under which nothing else would hold the policy back.
    """

    asked: str
    measure: Callable[[Sequence[float], Sequence[float]], float]
    most: Callable[[Any], float]
    hyperparameters: dict[str, Any]

    def answer(self, model: Any, before: Sequence[float], after: Sequence[float]) -> Answer:
        """
        :param model: after its first update
        :param before: the probabilities of the actions, ``[A]``
        :param after: likewise
        """
        measured, most = self.measure(before, after), self.most(model)
        return Answer(self.asked, measured, f"at most {most:.3g}", measured <= most)


STEP_SUSPECT = (
    "the update compares with another policy than the one that acted, such as the new one: the clip or the trust region "
    "never holds"
)


def _largest_ratio(before: Sequence[float], after: Sequence[float]) -> float:
    return max(new / old for old, new in zip(before, after, strict=True))


def _divergence(before: Sequence[float], after: Sequence[float]) -> float:
    """KL(old‖new) in nats; infinite where an action has lost all of its probability."""
    return sum(old * math.log(old / new) if new > 0 else math.inf for old, new in zip(before, after, strict=True))


# Plain gradient descent stops within a step where the clipped surrogate is flat; 40 such steps would reach a ratio of 2.
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
TRUST_REGION_WITHOUT_SEARCH = Bound(
    TRUST_REGION.asked, _divergence, TRUST_REGION.most, dict(n_steps=16, step_rule="kl", target_kl=0.01)
)
