"""Which cases of a test belong to the quick suite; ``make test-all`` runs all of them."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

# Algorithms that share their stages, policies and rollouts with another one. In what is checked of every algorithm, that other
# one stands for both of them in the quick suite.
RELATIVES = {"a3c": "a2c", "npg": "trpo", "ppo_penalty": "ppo", "reinforce_baseline": "reinforce"}


def mostly_slow(cases: Iterable[Any], quick: Iterable[Any] | Callable[..., bool]) -> list[Any]:
    """
    Mark the cases that are not quick as slow.

    :param cases: parameters of a test, single ones or tuples
    :param quick: the cases that are, or a function that takes a case's parameters and says whether it is
    """
    chosen = quick if callable(quick) else lambda *case, known=list(quick): (case if len(case) > 1 else case[0]) in known
    marked = []
    for case in cases:
        parameters = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*parameters, marks=[] if chosen(*parameters) else pytest.mark.slow))
    return marked


def each_value(*arguments: Iterable[Any]) -> list[Any]:
    """
    Return all combinations of the values of several arguments. Those that are not slow are as few as have each value.

    :param arguments: the values of each argument
    """
    values = [list(of_one) for of_one in arguments]
    quick = {tuple(i % len(of_one) for of_one in values) for i in range(max(map(len, values)))}
    marked = []
    for places in product(*(range(len(of_one)) for of_one in values)):
        case = [of_one[i] for of_one, i in zip(values, places, strict=True)]
        marked.append(pytest.param(*case, marks=[] if places in quick else pytest.mark.slow))
    return marked
