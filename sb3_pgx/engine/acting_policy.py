"""The policy that acts in a rollout, which a callback may change before the rollout is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import equal

from sb3_pgx.engine.tensors import copy_all, write_counts

SMALL = 4096  # numbers of a parameter whose values are compared at each step, if torch counts the writes to all parameters


class ActingPolicy:
    """
    The policy that acts in a rollout, with a copy of the parameters that it started with.

    :param policy: in evaluation mode
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.policy = policy
        self._parameters = [*policy.parameters()]
        self._before = [p.detach().clone() for p in self._parameters]
        self._write_counts = write_counts(self._parameters)
        # Writing through ``.data`` is not counted; nearly all changes reach some of the small parameters.
        self._compared = [
            (p, x)
            for p, x in zip(self._parameters, self._before, strict=True)
            if p.numel() <= SMALL or self._write_counts is None
        ]

    def has_changed(self, policy: ActorCriticPolicy) -> bool:
        """
        Return whether another policy acts from now on, or this one with other parameters.

        :param policy: the model's policy now
        """
        if policy is not self.policy or list(map(id, policy.parameters())) != list(map(id, self._parameters)):
            return True
        return write_counts(self._parameters) != self._write_counts or not all(equal(p, x) for p, x in self._compared)

    @contextmanager
    def as_it_acted(self) -> Iterator[bool]:
        """
        Give the policy the parameters that it started with, within this context.

        :return: whether that is possible: not if its parameters have other shapes by now
        """
        parameters = [p.detach() for p in self.policy.parameters()]
        if [p.shape for p in parameters] != [x.shape for x in self._before]:
            yield False
            return
        now = [p.clone() for p in parameters]
        try:
            copy_all(parameters, self._before)
            yield True
        finally:
            copy_all(parameters, now)
