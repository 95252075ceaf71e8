"""Algorithms with the policies and environments that SB3 lacks, for checks that must hold for all of them."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from gymnasium import spaces
from selection import RELATIVES, mostly_slow
from support.capabilities import MIXED, SMALL_LSTM, envs
from support.masked_environments import MIXED as MASKED_MIXED
from support.masked_environments import Masked
from support.models import make
from support.small_environments import vectorised

from sb3_pgx.registry import ALGORITHMS


def _masked(space: spaces.Space | None = None) -> Callable[[int], Any]:
    return lambda n: vectorised(*(Masked(copy.deepcopy(space), truncates=True) for _ in range(n)))


def _mixed(n: int) -> Any:
    return envs(action_space=copy.deepcopy(MIXED), n=n)


# A policy, its arguments, and a function of their number that makes environments.
KINDS: dict[str, tuple[str, dict[str, Any], Callable[[int], Any]]] = {
    "plain": ("MlpPolicy", {}, lambda n: envs(n=n)),
    "LSTM": ("MlpLstmPolicy", SMALL_LSTM, lambda n: envs(n=n)),
    "GRU": ("MlpGruPolicy", SMALL_LSTM, lambda n: envs(n=n)),
    "masks": ("MlpPolicy", {}, _masked()),
    "mixed actions": ("MlpPolicy", {}, _mixed),
    "memory and mixed actions": ("MlpLstmPolicy", SMALL_LSTM, _mixed),
    "all three": ("MlpGruPolicy", SMALL_LSTM, _masked(MASKED_MIXED)),
}


class Variant(NamedTuple):
    """
    An algorithm with a policy and environments.

    :param name: of the algorithm
    :param kind: a key of :data:`KINDS`
    """

    name: str
    kind: str = "plain"

    @property
    def algorithm(self) -> Any:
        return ALGORITHMS[self.name]

    @property
    def policy(self) -> str:
        return KINDS[self.kind][0]

    @property
    def has_memory(self) -> bool:
        return self.policy != "MlpPolicy"

    def envs(self, n: int = 2) -> Any:
        """Make environments."""
        return KINDS[self.kind][2](n)

    def make(self, env: Any = None, **kwargs: Any) -> Any:
        """Make a small model."""
        policy_kwargs = {**KINDS[self.kind][1], **kwargs.pop("policy_kwargs", {})}
        return make(self.name, env or self.envs(), self.policy, policy_kwargs=policy_kwargs, **kwargs)

    def __str__(self) -> str:
        return self.name if self.kind == "plain" else f"{self.name}, {self.kind}"


# What is left of the kinds where an algorithm refuses others.
LEFT = {"acer": ("plain", "masks"), "acktr": ("plain", "masks", "mixed actions")}
VARIANTS = [Variant(name, kind) for kind in KINDS for name in ALGORITHMS if kind in LEFT.get(name, KINDS)]
QUICK_VARIANTS = {("ppo", "LSTM"), ("trpo", "all three"), ("reinforce", "memory and mixed actions"), ("acer", "masks")}


def each_variant(also_quick: bool = True) -> Any:
    """
    Run a test with ``variant``, every algorithm of the registry with each kind. All but the plain ones are mostly slow, and so
    are the plain ones of :data:`~selection.RELATIVES`.

    :param also_quick: whether some of them are quick
    """
    cases = [(variant,) for variant in VARIANTS]
    quick = mostly_slow(cases, lambda variant: is_quick(variant) and (also_quick or variant.kind == "plain"))
    return pytest.mark.parametrize("variant", quick, ids=str)


def is_quick(variant: Variant) -> bool:
    """Return whether the quick suite has a variant."""
    return variant in QUICK_VARIANTS or (variant.kind == "plain" and variant.name not in RELATIVES)
