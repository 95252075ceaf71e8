"""
Probe environments: so small that the right answer is known, one for each part of the pipeline.

If an algorithm gives a wrong answer, the probe says which part is probably broken (Jones, 2021, "Debugging RL, without the
agonizing pain").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_pgx.environments import evaluate_policy

TOLERANCE = 0.15  # largest error of a value or of a mean action
SURE = 0.8  # smallest probability of the right one of two actions
N_SAMPLES = 200  # from which the probabilities of a policy with continuous actions are estimated
# What a probe may require of an algorithm.
CRITIC, BOOTSTRAP, BOX, MASKS, MEMORY = "critic", "bootstrap", "box", "masks", "memory"


@dataclass(frozen=True)
class Answer:
    """
    The answer of an algorithm to a question.

    :param asked: what was measured, such as ``V(0)``
    :param measured: the number
    :param expected: the right answer, in words
    :param right: whether the answer is right
    """

    asked: str
    measured: float
    expected: str
    right: bool


@dataclass(frozen=True)
class Question:
    """
    A question to a trained model.

    :param asked: what is measured, such as ``V(0)``
    :param measure: function that measures it on a model
    :param expected: the right answer, in words
    :param low: smallest right answer
    :param high: largest right answer
    """

    asked: str
    measure: Callable[[Any], float]
    expected: str
    low: float
    high: float

    def answer(self, model: Any) -> Answer:
        """Return the answer of a trained model; NaN is never right."""
        measured = self.measure(model)
        return Answer(self.asked, measured, self.expected, self.low <= measured <= self.high)


def value(observation: float, expected: float) -> Question:
    """Return a question for V of an observation."""
    right = f"{expected:g} ± {TOLERANCE}"
    return Question(f"V({observation:g})", lambda m: _value(m, observation), right, expected - TOLERANCE, expected + TOLERANCE)


def chosen(observation: float, action: int) -> Question:
    """Return a question for the probability of an action, the better one of two."""
    return Question(
        f"π({action}|{observation:g})", lambda m: probabilities(m, observation)[action], f"1, at least {SURE}", SURE, 1.0
    )


def mean_action(observation: float, expected: float) -> Question:
    """Return a question for the action that is taken without exploration."""

    def measure(model: Any) -> float:
        return float(model.predict(_row(observation)[0], deterministic=True)[0].item())

    right = f"{expected:g} ± {TOLERANCE}"
    return Question(f"mean action({observation:g})", measure, right, expected - TOLERANCE, expected + TOLERANCE)


def no_invalid_actions() -> Question:
    """Return a question for the number of invalid actions that were taken in training."""
    return Question("invalid actions", lambda m: float(sum(m.get_env().get_attr("n_invalid"))), "0", 0.0, 0.0)


def remembered() -> Question:
    """Return a question for the share of episodes in which the action is the one to remember; guessing gives half."""

    def measure(model: Any) -> float:
        env = RememberedAction()
        env.reset(seed=0)  # of few episodes, or others each time, a guess would now and then be right in enough
        return float(evaluate_policy(model, env, 100, warn=False)[0])

    return Question("remembered", measure, f"1, at least {SURE}", SURE, 1.0)


def probabilities(model: Any, observation: float) -> list[float]:
    """Return π(·|s) for every action; for an off-policy algorithm, the shares of :class:`BoxActions` among its samples."""
    if not hasattr(model.policy, "get_distribution"):
        share = float((model.predict(_row(observation).repeat(N_SAMPLES, axis=0))[0] > 0).mean())
        return [1 - share, share]
    with th.no_grad():
        distribution = model.policy.get_distribution(model.policy.obs_to_tensor(_row(observation))[0])
    return distribution.distribution.probs[0].tolist()


def _row(observation: float) -> np.ndarray:
    return np.array([[observation]], np.float32)


def _value(model: Any, observation: float) -> float:
    """Return V(s); for an off-policy algorithm, the smallest Q(s, a) of its critics for the action without exploration."""
    policy, observations = model.policy, model.policy.obs_to_tensor(_row(observation))[0]
    with th.no_grad():
        if hasattr(policy, "predict_values"):
            return float(policy.predict_values(observations).item())
        return min(float(q.item()) for q in policy.critic(observations, policy._predict(observations, deterministic=True)))


@dataclass(frozen=True)
class Probe:
    """
    An environment with questions to which the answers are known.

    :param name: name of the probe
    :param environment: class of the environment
    :param gamma: discount factor for which the answers are known
    :param questions: questions to a model that was trained in the environment
    :param suspect: what is probably broken if an answer is wrong
    :param needs: what an algorithm needs for this probe: ``CRITIC``, ``BOOTSTRAP`` of truncated episodes, ``BOX`` actions,
        action ``MASKS``, or ``MEMORY``, a recurrent policy
    """

    name: str
    environment: type[gym.Env]
    gamma: float
    questions: tuple[Question, ...]
    suspect: str
    needs: frozenset[str] = frozenset()


class ProbeEnv(gym.Env):
    """Base of the probes: the observation is one number, there are two actions, and episodes take ``length`` steps."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)
    length: ClassVar[int] = 1
    truncates: ClassVar[bool] = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; arguments and result as in Gymnasium."""
        super().reset(seed=seed)
        self.age = 0
        self.seen = self.first()
        return self.observed(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; argument and result as in Gymnasium."""
        reward = self.reward(action)
        self.age += 1
        self.seen = self.following(action)
        over = self.age >= self.length
        return self.observed(), reward, over and not self.truncates, over and self.truncates, {}

    def observed(self) -> np.ndarray:
        """Return the current observation, ``[1]``."""
        return np.array([self.seen], np.float32)

    def first(self) -> float:
        """Return the first observation of an episode."""
        return 0.0

    def following(self, action: Any) -> float:
        """Return the observation after an action; ``age`` includes the action's step."""
        return self.seen

    def reward(self, action: Any) -> float:
        """Return the reward of an action; ``age`` does not include the action's step yet."""
        return 1.0

    def coin(self) -> float:
        """Return −1 or 1 with equal probability."""
        return float(self.np_random.choice((-1.0, 1.0)))


class BoxActions(gym.Wrapper):
    """
    A probe for algorithms with continuous actions: negative numbers are the first of its two actions, others the second.

    :param env: a probe; one with continuous actions stays as it is
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._chooses = isinstance(env.action_space, spaces.Discrete)
        if self._chooses:
            self.action_space = Target.action_space

    def step(self, action: Any) -> Any:
        """Take a step; argument and result as in Gymnasium."""
        return self.env.step(int(action[0] > 0) if self._chooses else action)


class ConstantReward(ProbeEnv):
    """One step with reward 1, so V is 1. Tests the value loss, the optimizer, and that returns end with the episode."""


class RewardSeen(ProbeEnv):
    """One step whose reward is the observation, so V(s) is s. Tests that observations reach the critic."""

    def first(self) -> float:
        """Return −1 or 1."""
        return self.coin()

    def reward(self, action: Any) -> float:
        """Return the observation."""
        return self.seen


class RewardAtTheEnd(ProbeEnv):
    """Two steps with different observations and reward 1 after the second: V is γ, then 1. Tests discounting and the order."""

    length = 2

    def following(self, action: Any) -> float:
        """Return the observation of the second step, 1."""
        return 1.0

    def reward(self, action: Any) -> float:
        """Return 0 after the first step, 1 after the second."""
        return float(self.age)


class TimeLimit(ProbeEnv):
    """Reward 1 for ever, truncated after three steps: V is 1/(1 − γ). It is less if truncation counts as termination."""

    length, truncates = 3, True


class FinalObservation(ProbeEnv):
    """
    One step. From 1: reward 1, then termination. From −1: no reward, then truncation at the observation 1, so V(−1) is γ V(1).

    V(−1) is wrong if truncated episodes are completed with 0, or with the value of the next episode's first observation,
    which is mostly −1.
    """

    def first(self) -> float:
        """Return mostly −1, sometimes 1."""
        return 1.0 if self.np_random.random() < 0.25 else -1.0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; argument and result as in Gymnasium."""
        ends = self.seen > 0
        self.seen = 1.0
        return self.observed(), float(ends), ends, not ends, {}


class RewardedAction(ProbeEnv):
    """One step, reward 1 for the first action and −1 for the second. Tests the sign and the action of each advantage."""

    def reward(self, action: Any) -> float:
        """Return 1 for the first action, −1 for the second."""
        return 1.0 if action == 0 else -1.0


class RewardedMatch(ProbeEnv):
    """One step, rewarded if the action matches the observation. Tests that both belong to the same row."""

    def first(self) -> float:
        """Return −1 or 1."""
        return self.coin()

    def reward(self, action: Any) -> float:
        """Return 1 if the action matches the observation, otherwise −1."""
        return 1.0 if action == int(self.seen > 0) else -1.0


class DelayedReward(ProbeEnv):
    """
    Two steps: the second observation shows the first action, and the second reward pays for it.

    Tests that advantages reach back to earlier steps.
    """

    length = 2

    def following(self, action: Any) -> float:
        """Return the first action as the observation."""
        return (1.0 if action == 1 else -1.0) if self.age == 1 else self.seen

    def reward(self, action: Any) -> float:
        """Return the observation: 0 at first, then the value of the first action."""
        return self.seen  # 0 at first


class MaskedAction(ProbeEnv):
    """One step: action 0 pays 1, and is invalid where the observation is −1. Tests that masks reach the policy's samples."""

    n_invalid = 0  # invalid actions so far

    def first(self) -> float:
        """Return −1 or 1."""
        return self.coin()

    def action_masks(self) -> np.ndarray:
        """Return which actions are valid, ``[2]``."""
        return np.array([self.seen > 0, True])

    def reward(self, action: Any) -> float:
        """Return 1 for action 0, and count it where it is invalid."""
        self.n_invalid += int(not self.action_masks()[action])
        return float(action == 0)


class RememberedAction(ProbeEnv):
    """
    Two steps: the first observation, −1 or 1, tells the right action of the second step, in which the observation is 0.

    Tests that a recurrent policy's state reaches from one step to the next, in acting and in the update.
    """

    length = 2

    def first(self) -> float:
        """Return the cue, −1 or 1."""
        self.cue = self.coin()
        return self.cue

    def following(self, action: Any) -> float:
        """Return 0: the cue is gone."""
        return 0.0

    def reward(self, action: Any) -> float:
        """Return 1 for the right action in the second step."""
        return float(self.age == 1 and (action == 1) == (self.cue > 0))


class Target(ProbeEnv):
    """One step, reward −(a − s/2)² for a continuous action: the mean action must be half of the observation."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def first(self) -> float:
        """Return −1 or 1."""
        return self.coin()

    def reward(self, action: Any) -> float:
        """Return minus the squared distance of the action from half the observation."""
        return -float((action[0] - self.seen / 2) ** 2)


PROBES: tuple[Probe, ...] = (
    Probe(
        name="constant reward",
        environment=ConstantReward,
        gamma=0.9,
        questions=(value(0, 1),),
        suspect="the value loss or the optimizer is wrong, or returns include the next episode",
        needs=frozenset({CRITIC}),
    ),
    Probe(
        name="observation",
        environment=RewardSeen,
        gamma=0.9,
        questions=(value(-1, -1), value(1, 1)),
        suspect="observations do not reach the critic, or they belong to other rows than the returns",
        needs=frozenset({CRITIC}),
    ),
    Probe(
        name="discounting",
        environment=RewardAtTheEnd,
        gamma=0.5,
        questions=(value(0, 0.5), value(1, 1)),
        suspect="the discount is missing or applied twice, or rewards are shifted in time",
        needs=frozenset({CRITIC}),
    ),
    Probe(
        name="time limit",
        environment=TimeLimit,
        gamma=0.5,
        questions=(value(0, 2),),
        suspect="truncated episodes are treated as terminated: the return of their last step lacks γ V(final observation)",
        needs=frozenset({CRITIC, BOOTSTRAP}),
    ),
    Probe(
        name="final observation",
        environment=FinalObservation,
        gamma=0.5,
        questions=(value(-1, 0.5), value(1, 1)),
        suspect="truncated episodes are completed with 0 or with the value of the next episode's first observation, not with "
        "that of their own final observation",
        needs=frozenset({CRITIC, BOOTSTRAP}),
    ),
    Probe(
        name="action",
        environment=RewardedAction,
        gamma=0.9,
        questions=(chosen(0, 0),),
        suspect="advantages have the wrong sign, or rewards are paired with other actions, for example shifted in time",
    ),
    Probe(
        name="action and observation",
        environment=RewardedMatch,
        gamma=0.9,
        questions=(chosen(-1, 0), chosen(1, 1)),
        suspect="advantages have the wrong sign, or observations, actions and advantages belong to different rows",
    ),
    Probe(
        name="delayed reward",
        environment=DelayedReward,
        gamma=0.9,
        questions=(chosen(0, 1),),
        suspect="advantages do not reach back to earlier steps: check the recursion over time and where it is cut",
    ),
    Probe(
        name="continuous action",
        environment=Target,
        gamma=0.9,
        questions=(mean_action(-1, -0.5), mean_action(1, 0.5)),
        suspect="advantages have the wrong sign, or the log-probability of a Box action is not that of the sampled action",
        needs=frozenset({BOX}),
    ),
    Probe(
        name="action mask",
        environment=MaskedAction,
        gamma=0.9,
        questions=(no_invalid_actions(), chosen(1, 0)),
        suspect="actions are not sampled from the masked distribution, or masks belong to other rows than the observations",
        needs=frozenset({MASKS}),
    ),
    Probe(
        name="memory",
        environment=RememberedAction,
        gamma=0.9,
        questions=(remembered(),),
        suspect="the recurrent state is reset or shifted between two steps, or the gradient does not reach the earlier one",
        needs=frozenset({MEMORY}),
    ),
)
