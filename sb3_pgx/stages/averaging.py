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
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_pgx.core.distributions import noise_source
from sb3_pgx.core.policies import can_act_from_noise
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import Batch
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.merged_statistics import gained, merge
from sb3_pgx.parallel.channel import Channel
from sb3_pgx.parallel.failure import Failure
from sb3_pgx.parallel.processes import Processes
from sb3_pgx.parallel.reductions import Reduction
from sb3_pgx.parallel.same import check_same
from sb3_pgx.stages.guard import statistics_of
from sb3_pgx.stages.team import Team, Train, described, restore, state_of

CHECK_EVERY = 20  # updates between two comparisons of the parameters of all processes

_EPISODES = ("ep_info_buffer", "ep_success_buffer")


class Averaging(Team):
    """
    Every process acts and learns, from its own environments; gradients and statistics are those of all.

    :param processes: of the run
    :param reduction: of their gradients
    """

    draws_for_all = True

    def __init__(self, processes: Processes, reduction: Reduction):
        self.processes, self.size, self.is_first = processes, processes.size, processes.is_first
        self.reduction = reduction

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        _check_averages(model)
        check_same(self.processes, {**described(model), "total_timesteps": total_timesteps})
        restore(model, self.processes.from_first(state_of(model)))
        if not can_act_from_noise(model.policy) and model.seed is not None:
            th.manual_seed(model.seed + self.processes.rank)  # otherwise all would draw the same actions
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
        for name, queue in before_episodes.items():
            setattr(model, name, Stamped(queue, queue.maxlen, lambda: model.num_timesteps))
        error: Exception | None = None
        outcome: Any
        try:
            outcome = collect()
        except Exception as raised:
            error, outcome = raised, Failure(raised, self.processes.rank)
        episodes = {name: getattr(getattr(model, name), "added", []) for name in _EPISODES}
        gain = gained(statistics_of(normalize), before) if normalize is not None else {}
        outcomes, of_all, gains = zip(*self.processes.exchange((outcome, episodes, gain)), strict=True)
        vars(model).update(before_episodes)
        failure = next((x for x in outcomes if isinstance(x, Failure)), None)
        if failure is not None:  # a refused rollout changes nothing, in no process
            if normalize is not None:
                vars(normalize).update(before)
            raise failure.error() if error is None else error
        for name, queue in before_episodes.items():
            added = sorted(chain.from_iterable(of_one[name] for of_one in of_all), key=itemgetter(0))  # as in one process
            setattr(model, name, deque([*queue, *(entry for _, entry in added)], queue.maxlen))
        if normalize is not None:
            merge(statistics_of(normalize), before, gains)
        return all(outcomes)

    def check(self, model: Any, iteration: int) -> None:
        self.reduction.settle()
        if iteration % CHECK_EVERY:
            return
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

    def noise_source(self, distribution: Distribution, n: int, device: th.device) -> Callable[[], Tensor]:
        if isinstance(distribution, StateDependentNoiseDistribution):  # whose noise is that of `reset_noise`
            return noise_source(distribution, n, device)
        rows, draw = self.processes.rows(n * self.size), noise_source(distribution, n * self.size, device)
        return lambda: draw()[rows.start : rows.stop]

    def reset_noise(self, policy: Any, n: int) -> None:
        rows, distribution = self.processes.rows(n * self.size), policy.action_dist
        policy.reset_noise(n * self.size)
        distribution.exploration_matrices = distribution.exploration_matrices[rows.start : rows.stop]
        distribution.exploration_mat = distribution.exploration_matrices[0]  # which SB3 uses for a single environment

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
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ValueError(f'parallel="all_reduce" averages gradients, but {reason}: use parallel="gather"')


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
