"""Observers of training: a spy on the objective, callbacks that keep metrics and rollouts, a log in a folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch import Tensor

from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.rollout import Batch


@contextmanager
def logging_to(folder: Any, model: BaseAlgorithm, formats: Sequence[str] = ("csv",)) -> Iterator[None]:
    """Log into a folder, and close the log's files afterwards, which SB3 leaves to the garbage collector."""
    logger = configure(str(folder), list(formats))
    model.set_logger(logger)
    try:
        yield
    finally:
        logger.close()


class Minibatch(NamedTuple):
    """What an objective saw before the gradient step on one minibatch."""

    measured: dict[str, float]
    ratio: Tensor  # [B], π now / π when it acted
    advantages: Tensor  # [B]
    log_prob: Tensor  # [B], when it acted
    theta: Tensor  # [P], all of the policy's parameters
    gradient: Tensor  # [P], of the loss; zeros where a parameter does not enter
    coefficients: Any


class Spy:
    """
    Stands in for a model's objective and keeps what it sees, in ``minibatches``.

    :param model: whose updates run eagerly
    :param script: distances from the policy that acted, to put in place of those of the minibatches
    """

    def __init__(self, model: Any, script: list[float] | None = None):
        self.model, self.original, self.script = model, model.objective, script
        self.minibatches: list[Minibatch] = []
        self._preparing = True
        model.objective = replace(self.original, measure=self)

    @property
    def distances(self) -> list[float]:
        return [minibatch.measured[self.original.distance] for minibatch in self.minibatches]

    def __call__(self, now: Evaluation, batch: Batch, c: Any) -> dict[str, Tensor]:
        measured = self.original.measure(now, batch, c)
        if self._preparing:  # before its first step the update asks once what is measured
            self._preparing = False
            return measured
        if self.script is not None:
            given = th.tensor(self.script[len(self.minibatches)], device=measured["loss"].device)
            measured = {**measured, self.original.distance: given}
        parameters = list(self.model.policy.parameters())
        gradient = th.autograd.grad(measured["loss"], parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        self.minibatches.append(
            Minibatch(
                measured={name: value.item() for name, value in measured.items()},
                ratio=(now.log_prob - batch.log_prob).exp().detach(),
                advantages=batch.advantages,
                log_prob=batch.log_prob,
                theta=th.nn.utils.parameters_to_vector(parameters).detach().clone(),
                gradient=th.cat([g.flatten() for g in gradient]),
                coefficients=c,
            )
        )
        return measured


class Metrics(BaseCallback):
    """A callback that keeps the metrics of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def on_update_end(self, metrics: dict[str, float]) -> None:
        self.updates.append(metrics)


class Watch(BaseCallback):
    """A callback that keeps the actions of every step, and what every rollout was evaluated and estimated to be."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[np.ndarray] = []
        self.evaluations: list[list[Tensor]] = []

    def _on_step(self) -> bool:
        self.actions.append(self.locals["actions"].copy())
        return True

    def _on_rollout_end(self) -> None:
        rollout: Any = self.model.last_rollout
        parts = (rollout.values, rollout.log_prob, rollout.last_values, rollout.next_values)
        self.evaluations.append([*parts, rollout.advantages, rollout.returns])


def watched(model: Any, timesteps: int = 48) -> tuple[Watch, tuple[float, float]]:
    """Train, and return what was done and the next random numbers of both generators."""
    watch = Watch()
    model.learn(timesteps, callback=watch)
    return watch, (np.random.rand(), th.rand(1).item())
