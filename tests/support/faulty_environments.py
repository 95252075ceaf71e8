"""Environments with one planted fault each, and the sound environments that they derive from."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Sound(gym.Env):
    """A random walk in two dimensions with a reward for staying near 0; episodes have random lengths."""

    observation_space: spaces.Space = spaces.Box(-5, 5, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.age = self.np_random.uniform(-1, 1, 2), 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.age += 1
        self.place = np.clip(self.place + self.np_random.uniform(-0.5, 0.5, 2), -5, 5)
        return self.observe(), self.reward(), self.terminated(), self.truncated(), {}

    def observe(self) -> Any:
        return self.place.astype(np.float32)

    def reward(self) -> float:
        return -float(np.abs(self.place).sum()) / 10

    def terminated(self) -> bool:
        return bool(self.np_random.random() < 0.1)

    def truncated(self) -> bool:
        return False


class RewardNaN(Sound):
    def reward(self) -> float:
        return float("nan") if self.age == 3 else super().reward()


class ObservationInfinite(Sound):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return np.array([0.0, np.inf], np.float32) if self.age == 3 else super().observe()


class OutsideItsSpace(Sound):
    def observe(self) -> Any:
        return super().observe() + np.float32([0, 7 * (self.age == 3)])


class NumberOutsideItsSpace(Sound):
    observation_space = spaces.Discrete(3)

    def observe(self) -> Any:
        return int(self.np_random.integers(4))


class OtherDtype(Sound):
    def observe(self) -> Any:
        return self.place


class ConstantDimension(Sound):
    def observe(self) -> Any:
        return super().observe() * np.float32([1, 0])


class Large(Sound):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return super().observe() * np.float32([1, 100])


class NoReward(Sound):
    def reward(self) -> float:
        return 0.0


class SameReturn(Sound):
    """Reward 1 at each step, and all episodes are truncated at the same length, so all returns are equal."""

    def reward(self) -> float:
        return 1.0

    def terminated(self) -> bool:
        return False

    def truncated(self) -> bool:
        return self.age >= 20


class LargeRewards(Sound):
    def reward(self) -> float:
        return 1000 * super().reward()


class TimeLimitTerminates(Sound):
    def terminated(self) -> bool:
        return self.age >= 20


class RunsOutOfFuel(TimeLimitTerminates):
    """Sound: every episode ends after 20 steps, and the observation shows the remaining time."""

    observation_space = spaces.Box(-5, 5, (3,), np.float32)

    def observe(self) -> Any:
        return np.append(super().observe(), np.float32(1 - self.age / 20))


class EndsInAState(TimeLimitTerminates):
    """Sound: every episode ends after 20 steps, in a state that occurs only there."""

    observation_space = spaces.Discrete(4)

    def observe(self) -> Any:
        return 1 if self.age >= 20 else int(self.np_random.choice([0, 2, 3]))


class Goal(Sound):
    """Sound: an environment with a goal, with the interface that HER needs."""

    observation_space = spaces.Dict({key: Sound.observation_space for key in ("observation", "achieved_goal", "desired_goal")})

    def observe(self) -> Any:
        place = super().observe()
        return {"observation": place, "achieved_goal": place, "desired_goal": -place}

    def reward(self) -> float:
        return float(self.compute_reward(self.place.astype(np.float32), -self.place.astype(np.float32), {}))

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return -np.abs(achieved_goal - desired_goal).sum(axis=-1) / 10


class RoundsBeyond(Sound):
    """Sound: an observation exceeds its bound by a rounding error."""

    observation_space = spaces.Box(0, 1, (2,), np.float64)

    def observe(self) -> Any:
        return np.array([1.0000000000000002 if self.age == 3 else 0.5, self.place[0] / 10 + 0.5])


class BarelyOutside(RoundsBeyond):
    """An observation exceeds its bound slightly, but by more than a rounding error."""

    def observe(self) -> Any:
        return super().observe() + np.array([1e-9, 0]) * (self.age == 3)


class NeverEnds(Sound):
    def terminated(self) -> bool:
        return False


class IgnoresTheSeed(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()


class Raises(Sound):
    def reward(self) -> float:
        if self.age == 3:
            raise ZeroDivisionError("division by zero")
        return super().reward()


class RaisesAtReset(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        raise FileNotFoundError("no map")


class OtherShape(Sound):
    def observe(self) -> Any:
        return super().observe()[: 2 - (self.age == 3)]


class OfBytes(Sound):
    """Sound: images with a constant border and with bytes far above 10."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def observe(self) -> Any:
        picture = np.zeros((36, 36, 1), np.uint8)
        picture[1:-1, 1:-1] = self.np_random.integers(256, size=(34, 34, 1))
        return picture


class BlackPictures(OfBytes):
    def observe(self) -> Any:
        return super().observe() * np.uint8(0)


class WrongKey(Sound):
    """A dictionary with one faulty part."""

    observation_space = spaces.Dict({"good": Sound.observation_space, "bad": Sound.observation_space})

    def observe(self) -> Any:
        return {"good": super().observe(), "bad": np.zeros(2, np.float32)}


class Catch(Sound):
    """Sound: a ball falls, and a paddle moves below it. Each entry of a final observation occurs in others, too."""

    observation_space = spaces.Box(0, 1, (5, 3), np.float32)
    action_space = spaces.Discrete(3)

    def observe(self) -> Any:
        board = np.zeros((5, 3), np.float32)
        ball, paddle = (int(abs(x) * 3) % 3 for x in self.place)
        board[min(self.age, 4), ball] = board[4, paddle] = 1.0
        return board

    def terminated(self) -> bool:
        return self.age == 4


class NumPyRewards(Sound):
    """Sound: rewards are numbers of NumPy, which training converts."""

    def reward(self) -> Any:
        return np.float32(super().reward())


class WithText(Sound):
    """A part of the observation is a text."""

    observation_space = spaces.Dict({"place": Sound.observation_space, "mission": spaces.Text(10)})

    def observe(self) -> Any:
        return {"place": super().observe(), "mission": "go"}
