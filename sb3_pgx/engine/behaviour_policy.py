"""The behaviour policy of a rollout, kept because a callback may change the policy before the rollout is evaluated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, equal

from sb3_pgx.core.tensors import copy_all

# Parameters with at most this many numbers are compared by value at each step; of the others, writes are counted.
SMALL = 4096


class BehaviourPolicy:
    """
    The policy that collects a rollout, with a copy of its parameters at the start.

    :param policy: policy in evaluation mode
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.policy = policy
        self._parameters = [*policy.parameters()]
        self._before = [p.detach().clone() for p in self._parameters]
        self._write_counts = write_counts(self._parameters)
        # Writes through ``.data`` are not counted, but nearly all changes affect some small parameter.
        self._compared = [
            (p, x)
            for p, x in zip(self._parameters, self._before, strict=True)
            if p.numel() <= SMALL or self._write_counts is None
        ]

    def has_changed(self, policy: ActorCriticPolicy) -> bool:
        """
        Return whether the model has another policy now, or this one has other parameters.

        :param policy: current policy of the model
        """
        if policy is not self.policy or list(map(id, policy.parameters())) != list(map(id, self._parameters)):
            return True
        return write_counts(self._parameters) != self._write_counts or not all(equal(p, x) for p, x in self._compared)

    @contextmanager
    def restored(self) -> Iterator[bool]:
        """
        Within this context, give the policy its parameters from the start of the rollout.

        :return: whether that is possible; it is not if the shapes of the parameters have changed
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


def write_counts(tensors: Sequence[Tensor]) -> list[int] | None:
    """
    Return how often each tensor has been written to in place, or ``None`` if this version of torch does not tell.

    Writing through ``.data`` may go uncounted.
    """
    try:
        return [x._version for x in tensors]
    except AttributeError:
        return None
