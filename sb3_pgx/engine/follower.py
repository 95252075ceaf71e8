"""A second policy that follows the one that is trained, step by step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.engine.layers import Modules

# From a parameter of the follower, the same of the policy, and the objective's coefficients, to the former's new value.
FollowerRule = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Follower:
    """A policy of the same structure as the one that is trained, which the objective may read; no step is taken on it."""

    policy: ActorCriticPolicy  # in evaluation mode
    modules: Modules  # its layers, as they were looked at last
    leader: Modules  # those of the policy that is trained

    def pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return each of its parameters and buffers with the trained policy's counterpart."""
        return zip(self.modules.tensors(), self.leader.tensors(), strict=True)


def follow(
    pairs: Iterable[tuple[Tensor, Tensor]], rule: FollowerRule, coefficients: Any, go: Tensor | Literal[True] = True
) -> None:
    """
    Move the follower after one gradient step, in place. Integer tensors, such as counters, are copied.

    :param pairs: a follower's tensor and the trained policy's, for each tensor
    :param rule: gives the new value of a floating-point tensor
    :param coefficients: the objective's coefficients
    :param go: whether the step was taken: yes, or what a number on the device says
    """
    with th.no_grad():
        for held, led in pairs:
            new = rule(held, led, coefficients) if held.is_floating_point() else led
            held.copy_(new if go is True else th.where(go, new, held))
