"""Processes that all act and learn, and average their gradients."""

import copy
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_pgx.core.policies import can_act_from_noise
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import Batch
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.core.undo import Undo, attributes_of
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.merged_statistics import gained, merge
from sb3_pgx.environments.spread import LearningShare
from sb3_pgx.parallel.channel import Channel
from sb3_pgx.parallel.devices import check_devices
from sb3_pgx.stages.guard import statistics_of
from sb3_pgx.stages.team import SharedNoise, Train, agree, check_none, restore, state_of

CHECK_EVERY = 20  # updates between two comparisons of the parameters of all processes

_EPISODES = ("ep_info_buffer", "ep_success_buffer")


class Averaging(SharedNoise):
    """
    Every process acts and learns, from its own environments; gradients and statistics are those of all.

    :param env: the environments of this process
    """

    def __init__(self, env: LearningShare):
        super().__init__(env.team)
        self.env, self.size, self.is_first, self.reduction = env, env.team.size, env.team.is_first, env.reduction

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        _check_averages(model)
        agree(self.processes, model, total_timesteps)
        check_devices(self.processes, model.device)
        restore(model, self.processes.from_first(state_of(model)))
        if not can_act_from_noise(model.policy) and model.seed is not None:
            th.manual_seed(model.seed + self.processes.rank)  # otherwise all would draw the same actions
        with self.processes.learning(self.env):
            if self.is_first:
                train(callback)
            else:
                with _silent(model):
                    train(None)
            restore(model, self.processes.from_first(state_of(model)))

    def collect(self, model: Any, collect: Callable[[], bool]) -> bool:
        normalize = model.get_vec_normalize_env()
        before = copy.deepcopy(statistics_of(normalize)) if normalize is not None else {}
        before_episodes = {name: getattr(model, name) for name in _EPISODES}
        undo = Undo()
        undo.add(model._reset_later, attributes_of(model, "num_timesteps", *_EPISODES))
        if normalize is not None:
            undo.add(lambda: vars(normalize).update(before))
        for name, queue in before_episodes.items():
            setattr(model, name, Stamped(queue, queue.maxlen, lambda: model.num_timesteps))
        with undo.on(BaseException):  # an error in one process undoes the rollout in all of them
            outcome = collect()
            episodes = {name: getattr(getattr(model, name), "added", []) for name in _EPISODES}
            gain = gained(statistics_of(normalize), before) if normalize is not None else {}
            outcomes, of_all, gains = zip(*self.processes.exchange((outcome, episodes, gain)), strict=True)
        for name, queue in before_episodes.items():
            added = sorted(chain.from_iterable(of_one[name] for of_one in of_all), key=itemgetter(0))  # as in one process
            setattr(model, name, deque([*queue, *(entry for _, entry in added)], queue.maxlen))
        if normalize is not None:
            merge(statistics_of(normalize), before, gains)
        return all(outcomes)

    def check(self, model: Any, iteration: int) -> None:
        self.reduction.settle()
        if iteration % CHECK_EVERY == 0:
            self._check_parameters(model)

    def _check_parameters(self, model: Any) -> None:
        """:raises RuntimeError: the processes have different ones"""
        digest = hashlib.sha256()
        for name, tensor in model.policy.state_dict().items():
            digest.update(name.encode() + tensor.numpy(force=True).tobytes())
        digests = self.processes.exchange(digest.hexdigest())
        different = [rank for rank, theirs in enumerate(digests) if theirs != digests[0]]
        if different:
            raise RuntimeError(
                f"after update {model._n_updates}, the parameters of process {different[0]} differ from those of process 0. "
                "Something changes them in one process alone, such as a callback: callbacks run in process 0, and must not "
                'change the policy with parallel="all_reduce"'
            )

    def coefficients(self, coefficients: Any) -> Any:
        if getattr(coefficients, "normalize_advantage", False):
            return coefficients._replace(normalize_advantage=False)
        return coefficients

    def standardized(self, batches: Iterator[Batch], wanted: bool) -> Iterator[Batch]:
        if not wanted:
            return batches
        own = [*batches]
        doubles = [batch.advantages.double() for batch in own]
        sums = self.processes.sum(th.stack([x.new_tensor([len(x), *_moments(x)]) for x in doubles]))
        return map(_standardized_with, own, sums)

    def from_first(self, value: Any) -> Any:
        return self.processes.from_first(value)

    def collected(self, value: Any) -> list[Any]:
        if not self.is_first:
            Channel(self.processes, 0).send([], value)
            return []
        return [value, *(Channel(self.processes, peer).receive()[1] for peer in range(1, self.size))]

    def of_all(self, values: Tensor) -> Tensor:
        return self.processes.concatenated(values)


def _check_averages(model: Any) -> None:
    """:raises ValueError: gradients of this model cannot be averaged over processes"""
    name = type(model).__name__
    own_buffer = f"{name} would learn from minibatches of {type(model.rollout_buffer).__name__}, a buffer of your own"
    reasons = {
        model.refuses_all_reduce: model.refuses_all_reduce is not None,
        f"{type(model.policy).__name__} is recurrent, and its minibatches are cut differently": is_recurrent(model.policy),
        own_buffer: not isinstance(model.rollout_buffer, RolloutView),
        "these environments reset in the step after an episode's end, which leaves some processes fewer rows than others": (
            carrying_adapter(model.env) is not None
        ),
    }
    check_none(reasons, 'parallel="all_reduce" averages gradients')


@contextmanager
def _silent(model: Any) -> Iterator[None]:
    """While the context is open, the model logs nothing."""
    given = model.verbose, model.tensorboard_log
    model.verbose, model.tensorboard_log = 0, None
    try:
        yield
    finally:
        model.verbose, model.tensorboard_log = given


class Stamped(deque[Any]):
    """
    A queue that remembers what was added to it, and when.

    :param entries: that it has already
    :param maxlen: the largest number of entries
    :param now: returns the time
    """

    def __init__(self, entries: Iterable[Any], maxlen: int | None, now: Callable[[], int] = lambda: 0):
        super().__init__(entries, maxlen)
        self.now = now
        self.added: list[tuple[int, Any]] = []

    def append(self, entry: Any) -> None:
        self.extend([entry])

    def extend(self, entries: Iterable[Any]) -> None:
        entries = [*entries]
        self.added += [(self.now(), entry) for entry in entries]
        super().extend(entries)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(), x.square().sum()


def _standardized_with(batch: Batch, sums: Tensor) -> Batch:
    """Standardise the advantages of a minibatch, given number, sum and sum of squares of all processes' advantages."""
    n, total, squares = sums
    if n < 2:
        return batch
    mean = total / n
    std = ((squares - n * mean.square()).clamp(min=0) / (n - 1)).sqrt()
    return replace(batch, advantages=((batch.advantages - mean) / (std + 1e-8)).to(batch.advantages.dtype))
