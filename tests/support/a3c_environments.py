"""Environments for A3C's workers, which import them in their own processes."""

import os
import signal

import numpy as np
from support.capabilities import BOX
from support.small_environments import AnySpace


class Seldom(AnySpace):
    """
    Does something in the process of another worker than the first, at a step.

    :param what: called then
    :param at: number of the step
    """

    def __init__(self, what, at=20):
        super().__init__(BOX, BOX)
        self.first_process, self.what, self.at, self.n = os.getpid(), what, at, 0

    def step(self, action):
        self.n += 1
        if os.getpid() != self.first_process and self.n == self.at:
            self.what()
        return super().step(action)


def crash():
    raise KeyError("the simulator of worker 1 crashed")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Rewards(AnySpace):
    """Returns the number of its process's first step as a reward, so that one knows who has seen it."""

    def __init__(self):
        super().__init__(BOX, BOX)
        self.rng = np.random.default_rng(os.getpid())
