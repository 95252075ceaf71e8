"""Environments for A3C's workers, which import them in their own processes."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv
from support.capabilities import BOX
from support.small_environments import AnySpace, vectorised


class Seldom(AnySpace):
    """
    Does something at one step, in every process but the one that made it.

    :param what: called then
    """

    def __init__(self, what: Callable[[], None]):
        super().__init__(BOX, BOX)
        self.made_in, self.what, self.n_steps = os.getpid(), what, 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        if os.getpid() != self.made_in and self.n_steps == 20:
            self.what()
        return super().step(action)


class Locked(AnySpace):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(BOX, BOX)
        self.lock = threading.Lock()


def crash() -> None:
    raise KeyError("the simulator crashed")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(0)


def nothing() -> None:
    pass


def two_locked() -> DummyVecEnv:
    return vectorised(Locked(), Locked())
