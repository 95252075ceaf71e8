"""
Environments so small that the right answer is known, one for each part of the pipeline (Jones, 2021, "Debugging RL, without
the agonizing pain"): where an algorithm answers wrongly, the environment says which part is likely to be broken.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_pgx.doctor.questions import Question, chosen, mean_action, value

CRITIC, BOOTSTRAP, BOX = "critic", "bootstrap", "box"


@dataclass(frozen=True)
class Probe:
    """
    An environment with a known answer.

    ``needs`` names what an algorithm must have to be asked: a critic, bootstrapping of truncated episodes, Box actions;
    ``suspect`` is the part that a wrong answer points to.
    """

    name: str
    environment: type[gym.Env]
    gamma: float
    questions: tuple[Question, ...]
    suspect: str
    needs: frozenset[str] = frozenset()


class ProbeEnv(gym.Env):
    """One number to see, two actions to choose from, episodes of ``length`` steps that terminate."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)
    length: ClassVar[int] = 1
    truncates: ClassVar[bool] = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        self.seen = self.first()
        return self.observed(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.age += 1
        self.seen = self.following(action)
        over = self.age >= self.length
        return self.observed(), reward, over and not self.truncates, over and self.truncates, {}

    def observed(self) -> np.ndarray:
        """What the agent sees, ``[1]``."""
        return np.array([self.seen], np.float32)

    def first(self) -> float:
        """The observation that an episode starts with."""
        return 0.0

    def following(self, action: Any) -> float:
        """The observation after an action, which has been counted."""
        return self.seen

    def reward(self, action: Any) -> float:
        """For an action, before it is counted."""
        return 1.0

    def coin(self) -> float:
        """−1 or 1."""
        return float(self.np_random.choice((-1.0, 1.0)))


class ConstantReward(ProbeEnv):
    """One step, reward 1. A wrong value: the value loss, the optimizer, or a discount that runs on into the next episode."""


class RewardSeen(ProbeEnv):
    """One step, the reward is what is seen. Wrong here and right for constants: the critic does not see the observations."""

    def first(self) -> float:
        return self.coin()

    def reward(self, action: Any) -> float:
        return self.seen


class RewardAtTheEnd(ProbeEnv):
    """Two steps that look different, reward 1 after the second: V is γ, then 1. Otherwise: discounting, or the order."""

    length = 2

    def following(self, action: Any) -> float:
        return 1.0

    def reward(self, action: Any) -> float:
        return float(self.age)


class TimeLimit(ProbeEnv):
    """Reward 1 for ever, truncated after three steps: V is 1/(1 − γ). Less: truncation is taken for termination."""

    length, truncates = 3, True


class FinalObservation(ProbeEnv):
    """
    From 1, reward 1 and the end. From −1, no reward, and the episode is truncated at 1: V(−1) is γ V(1). Otherwise truncated
    episodes are completed with 0, or with the value of the observation that the next episode starts from, which is mostly −1.
    """

    def first(self) -> float:
        return 1.0 if self.np_random.random() < 0.25 else -1.0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ends = self.seen > 0
        self.seen = 1.0
        return self.observed(), float(ends), ends, not ends, {}


class RewardedAction(ProbeEnv):
    """One step, 1 for the first action and −1 for the second. The wrong one: the sign, or rewards of other actions."""

    def reward(self, action: Any) -> float:
        return 1.0 if action == 0 else -1.0


class RewardedMatch(ProbeEnv):
    """One step, rewarded if the action matches what is seen. Otherwise actions and observations are of different rows."""

    def first(self) -> float:
        return self.coin()

    def reward(self, action: Any) -> float:
        return 1.0 if action == int(self.seen > 0) else -1.0


class DelayedReward(ProbeEnv):
    """
    The first of two actions decides, the second step shows which it was and pays for it. Otherwise advantages do not reach
    back over a step.
    """

    length = 2

    def following(self, action: Any) -> float:
        return (1.0 if action == 1 else -1.0) if self.age == 1 else self.seen

    def reward(self, action: Any) -> float:
        return self.seen  # 0 at first


class Target(ProbeEnv):
    """One step, −(a − s/2)² for a continuous action: the mean action has to be half of what is seen."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def first(self) -> float:
        return self.coin()

    def reward(self, action: Any) -> float:
        return -float((action[0] - self.seen / 2) ** 2)


PROBES: tuple[Probe, ...] = (
    Probe(
        "constant reward",
        ConstantReward,
        0.9,
        (value(0, 1),),
        "the value loss or its optimizer does not learn, or returns run on into the next episode",
        frozenset({CRITIC}),
    ),
    Probe(
        "observation",
        RewardSeen,
        0.9,
        (value(-1, -1), value(1, 1)),
        "observations do not reach the critic, or belong to other rows than the returns",
        frozenset({CRITIC}),
    ),
    Probe(
        "discounting",
        RewardAtTheEnd,
        0.5,
        (value(0, 0.5), value(1, 1)),
        "the discount is missing, applied twice, or rewards are shifted in time",
        frozenset({CRITIC}),
    ),
    Probe(
        "time limit",
        TimeLimit,
        0.5,
        (value(0, 2),),
        "episodes that a time limit truncates are treated as terminated: their last step needs γ V(final observation)",
        frozenset({CRITIC, BOOTSTRAP}),
    ),
    Probe(
        "final observation",
        FinalObservation,
        0.5,
        (value(-1, 0.5), value(1, 1)),
        "truncated episodes are completed with 0, or with the value of the next episode's first observation",
        frozenset({CRITIC, BOOTSTRAP}),
    ),
    Probe(
        "action",
        RewardedAction,
        0.9,
        (chosen(0, 0),),
        "advantages have the wrong sign, or rewards belong to other actions, as where they are shifted in time",
    ),
    Probe(
        "action and observation",
        RewardedMatch,
        0.9,
        (chosen(-1, 0), chosen(1, 1)),
        "advantages have the wrong sign, or observations, actions and advantages are of different rows",
    ),
    Probe(
        "delayed reward",
        DelayedReward,
        0.9,
        (chosen(0, 1),),
        "advantages do not reach back to earlier steps: the recursion over time, or where it is cut",
    ),
    Probe(
        "continuous action",
        Target,
        0.9,
        (mean_action(-1, -0.5), mean_action(1, 0.5)),
        "advantages have the wrong sign, or the log-probability of a Box action is not of the action that was drawn",
        frozenset({BOX}),
    ),
)
