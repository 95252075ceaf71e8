"""The random numbers of a process: Python's, NumPy's and torch's global generators."""

import random
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor


class RandomState(NamedTuple):
    """States of the global generators of a process."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: list[Tensor]  # one per device; empty if CUDA has not been used


def random_state() -> RandomState:
    """Return the states of the global generators."""
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_initialized() else []
    return RandomState(random.getstate(), np.random.get_state(), th.get_rng_state(), cuda)


def set_random_state(state: RandomState) -> None:
    """
    Continue the global generators from a state.

    :param state: result of :func:`random_state`
    """
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    th.set_rng_state(state.torch)
    if state.cuda and th.cuda.is_available():
        th.cuda.set_rng_state_all(state.cuda)
