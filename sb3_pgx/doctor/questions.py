"""What is asked of a trained model whose right answer is known: a value, the probability of an action, a mean action."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

TOLERANCE = 0.15  # of a value and of a mean action
SURE = 0.8  # probability of the right action, of two


@dataclass(frozen=True)
class Answer:
    """What was asked, what was measured, what is right, and whether the one is the other."""

    asked: str
    measured: float
    expected: str
    right: bool


@dataclass(frozen=True)
class Question:
    """What is asked of a trained model, and between which numbers the answer has to lie."""

    asked: str
    measure: Callable[[Any], float]
    expected: str
    low: float
    high: float

    def put_to(self, model: Any) -> Answer:
        """The answer of a trained model; NaN is never right."""
        measured = self.measure(model)
        return Answer(self.asked, measured, self.expected, self.low <= measured <= self.high)


def value(observation: float, expected: float) -> Question:
    """V of an observation."""
    tell = f"{expected:g} ± {TOLERANCE}"
    return Question(f"V({observation:g})", lambda m: _value(m, observation), tell, expected - TOLERANCE, expected + TOLERANCE)


def chosen(observation: float, action: int) -> Question:
    """The probability of the better one of two actions."""
    return Question(
        f"π({action}|{observation:g})", lambda m: probabilities(m, observation)[action], f"1, at least {SURE}", SURE, 1.0
    )


def mean_action(observation: float, expected: float) -> Question:
    """The action that is taken without exploring."""

    def measure(model: Any) -> float:
        return float(model.predict(_row(observation)[0], deterministic=True)[0].item())

    tell = f"{expected:g} ± {TOLERANCE}"
    return Question(f"mean action({observation:g})", measure, tell, expected - TOLERANCE, expected + TOLERANCE)


def probabilities(model: Any, observation: float) -> list[float]:
    """π(·|s) of every action."""
    with th.no_grad():
        distribution = model.policy.get_distribution(model.policy.obs_to_tensor(_row(observation))[0])
    return distribution.distribution.probs[0].tolist()


def _row(observation: float) -> np.ndarray:
    return np.array([[observation]], np.float32)


def _value(model: Any, observation: float) -> float:
    with th.no_grad():
        return float(model.policy.predict_values(model.policy.obs_to_tensor(_row(observation))[0]).item())
