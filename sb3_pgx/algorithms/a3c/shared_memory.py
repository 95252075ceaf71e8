"""What A3C's workers share: parameters, statistics of the optimizer, and counters. Nothing in it is locked."""

from collections.abc import Iterator
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.tensors import copy_all, flatten, unflatten
from sb3_pgx.engine.optimizers import OptimizerRule, rule_of


class SharedMemory(NamedTuple):
    """
    Tensors in shared memory on the CPU.

    Each worker writes its own entries of ``steps`` and ``updates``, so that their sums are exact without a lock. The memory is
    released when no process has it any more, however the processes end.
    """

    parameters: Tensor  # of the policy, [P]
    moments: Tensor  # of the optimizer, one vector per moment, [K, P]
    moment_steps: Tensor  # steps behind the moments, [1]
    steps: Tensor  # environment steps of each worker, int64, [W]
    updates: Tensor  # updates of each worker, int64, [W]
    stop: Tensor  # whether all workers must stop, bool, [1]


class SharedStatistics:
    """
    The optimizer's moments, such as RMSprop's mean of squared gradients, of one worker and in shared memory.

    :param policy: the worker's policy; the optimizer's state of a parameter exists from its first gradient step on
    :param rule: rule of the policy's optimizer
    :param shared: moments and step count in shared memory
    """

    def __init__(self, policy: ActorCriticPolicy, rule: type[OptimizerRule], shared: SharedMemory):
        self.policy, self.rule, self.shared = policy, rule, shared

    def pull(self) -> None:
        """Copy the shared moments into the worker's optimizer."""
        count, state_of = int(self.shared.moment_steps.item()), self.policy.optimizer.state
        if (
            self.rule.moments and not state_of and self.shared.updates.any()
        ):  # the worker's first update, and others have taken some
            for parameter in filter(_learns, self.policy.parameters()):
                state_of[parameter] = self.rule.new_count(count)
        for kept, parameter, name in self._moments():
            state = state_of.get(parameter)
            if state is not None and state.get(name) is not None:
                state[name].copy_(kept)
            elif state is not None:
                state[name] = kept.to(parameter, copy=True)
        for state in state_of.values():
            if "step" in state:
                state.update(self.rule.new_count(count))

    def push(self) -> None:
        """Copy the worker's moments into shared memory. What others wrote since :meth:`pull` is overwritten."""
        state_of = self.policy.optimizer.state
        for kept, parameter, name in self._moments():
            if parameter in state_of:
                kept.copy_(state_of[parameter][name])
        for state in state_of.values():
            self.shared.moment_steps[0] = int(state.get("step", 0))  # the same for all
            break

    def _moments(self) -> Iterator[tuple[Tensor, nn.Parameter, str]]:
        """Yield each moment in shared memory with its parameter and its name."""
        parameters = [*self.policy.parameters()]
        for name, row in zip(self.rule.moments, self.shared.moments, strict=True):
            for kept, parameter in zip(unflatten(row, parameters), parameters, strict=True):
                yield kept, parameter, name


class Worker:
    """
    One worker's side of the shared memory.

    :param policy: the worker's policy
    :param shared: what all workers share
    :param rank: number of this worker, from 0
    :param share_statistics: whether the optimizer's moments are shared
    """

    def __init__(self, policy: ActorCriticPolicy, shared: SharedMemory, rank: int, share_statistics: bool):
        self.policy, self.shared, self.rank = policy, shared, rank
        rule = rule_of(policy.optimizer) if share_statistics else ""
        self.statistics = None if isinstance(rule, str) else SharedStatistics(policy, rule, shared)
        # Reading and writing numbers in NumPy's views takes a tenth of the time.
        self._steps, self._updates, self._stop = shared.steps.numpy(), shared.updates.numpy(), shared.stop.numpy()

    def copy_parameters(self) -> None:
        """Copy the shared parameters into the worker's policy."""
        self._updates_before = int(self._updates.sum())
        self._copied = self.shared.parameters.clone()
        parameters = _parameters(self.policy)
        with th.no_grad():
            copy_all(parameters, unflatten(self._copied, parameters))

    def publish(self) -> int:
        """
        Add the change since :meth:`copy_parameters` to the shared parameters, and copy them again.

        :return: number of updates by other workers in between
        """
        changed = _flat(self.policy)
        if th.equal(self.shared.parameters, self._copied):
            self.shared.parameters.copy_(changed)  # without the rounding of a sum
        else:
            self.shared.parameters.add_(changed - self._copied)
        staleness = int(self._updates.sum()) - self._updates_before
        self._updates[self.rank] += 1
        self.copy_parameters()
        return staleness

    def count_steps(self, steps: int) -> int:
        """Count environment steps of this worker. Return those of all workers."""
        self._last_steps = steps
        self._steps[self.rank] += steps
        return int(self._steps.sum())

    def uncount_steps(self) -> None:
        """Undo the last :meth:`count_steps`: its rollout was refused."""
        self.count_steps(-self._last_steps)

    @property
    def stopped(self) -> bool:
        """Whether all workers must stop."""
        return bool(self._stop[0])


def allocate(policy: ActorCriticPolicy, n_workers: int, steps: int) -> SharedMemory:
    """
    Put a policy's parameters and the moments of its optimizer into shared memory.

    :param policy: the policy of worker 0
    :param n_workers: number of workers
    :param steps: environment steps that were taken before
    """
    rule = rule_of(policy.optimizer)
    names = () if isinstance(rule, str) else rule.moments
    initial = 0.0 if isinstance(rule, str) else rule.initial
    values = _flat(policy)
    shared = SharedMemory(
        parameters=values,
        moments=th.full((len(names), len(values)), initial, dtype=values.dtype),
        moment_steps=th.zeros(1),
        steps=th.zeros(n_workers, dtype=th.int64),
        updates=th.zeros(n_workers, dtype=th.int64),
        stop=th.zeros(1, dtype=th.bool),
    )
    for tensor in shared:
        tensor.share_memory_()
    shared.steps[0] = steps
    if not isinstance(rule, str):
        SharedStatistics(policy, rule, shared).push()
    return shared


def _learns(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def _parameters(policy: ActorCriticPolicy) -> list[Tensor]:
    return [p.detach() for p in policy.parameters()]


def _flat(policy: ActorCriticPolicy) -> Tensor:
    return flatten(_parameters(policy)).cpu()
