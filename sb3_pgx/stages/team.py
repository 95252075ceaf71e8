"""The processes that train one model together, and what makes their models the same."""

import inspect
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_pgx.core.distributions import noise_source
from sb3_pgx.core.rollout import Batch
from sb3_pgx.core.undo import is_scalar
from sb3_pgx.parallel.reductions import Reduction
from sb3_pgx.stages.guard import statistics_of

Train = Callable[[MaybeCallback], None]
# Attributes of a model in which processes may differ.
_OWN = ("policy", "env", "verbose", "start_time", "tensorboard_log", "device")


class Team:
    """The processes that train a model: this one alone. Subclasses differ in what they do together."""

    size = 1  # number of processes that learn, each from its own environments
    is_first = True  # whether this process logs, evaluates and saves
    draws_for_all = False  # whether random numbers for actions are drawn for the environments of all processes
    reduction = Reduction()  # of the gradients

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        """
        Train.

        :param model: the model
        :param train: trains it in this process, with a callback
        :param callback: the user's
        :param total_timesteps: environment steps
        """
        train(callback)

    def collect(self, model: Any, collect: Callable[[], bool]) -> bool:
        """
        Collect a rollout.

        :param model: that collects
        :param collect: collects the rollout of this process; false if a callback has stopped the training
        :return: false if a callback of any process has
        """
        return collect()

    def check(self, model: Any, iteration: int) -> None:
        """
        Check that an update has led all processes to the same model.

        :param model: after the update
        :param iteration: number of rollouts so far
        """

    def noise_source(self, distribution: Distribution, n: int, device: th.device) -> Callable[[], Tensor]:
        """Return :func:`~sb3_pgx.core.distributions.noise_source` for this process's n environments."""
        return noise_source(distribution, n, device)

    def reset_noise(self, policy: Any, n: int) -> None:
        """Draw the noise matrices of gSDE for this process's n environments."""
        policy.reset_noise(n)

    def coefficients(self, coefficients: Any) -> Any:
        """Return the coefficients of an objective on :meth:`standardized` minibatches."""
        return coefficients

    def standardized(self, batches: Iterator[Batch], wanted: bool) -> Iterator[Batch]:
        """
        Return minibatches whose advantages need no more standardising, unless the objective standardises them.

        :param batches: of one epoch
        :param wanted: whether advantages are to be standardised over each minibatch
        """
        return batches

    def from_first(self, value: Any) -> Any:
        """Return the value that the first process has. All processes that learn must call this."""
        return value

    def collected(self, value: Any) -> list[Any]:
        """Return what all processes that learn have, in the first process. The others, which must call this, get nothing."""
        return [value]

    def of_all(self, values: Tensor) -> Tensor:
        """Return what all processes have of a tensor, one after another along the first dimension."""
        return values


ALONE = Team()


def described(model: Any) -> dict[str, Any]:
    """Return the arguments and counters of a model that must be the same in all processes."""
    arguments = {name: getattr(model, name, None) for name in inspect.signature(type(model)).parameters if name not in _OWN}
    comparable = {name: value for name, value in arguments.items() if " at 0x" not in repr(value)}
    counters = {"num_timesteps": model.num_timesteps, "n_gradient_steps": model.n_gradient_steps}
    return {"the algorithm": type(model).__name__, "the policy": model.policy_class.__name__, **comparable, **counters}


def state_of(model: Any) -> dict[str, Any]:
    """Return what another process needs to have the same model: parameters, optimizers, counters and statistics."""
    file = io.BytesIO()
    th.save(model.get_parameters(), file)
    normalize = model.get_vec_normalize_env()
    return {
        "parameters": file.getvalue(),
        "numbers": {k: v for k, v in vars(model).items() if is_scalar(v) and k not in _OWN},
        "statistics": {} if normalize is None else statistics_of(normalize),
    }


def restore(model: Any, state: dict[str, Any]) -> None:
    """
    Give a model the state of another one.

    :param model: of the same class and arguments
    :param state: result of :func:`state_of`
    """
    model.set_parameters(th.load(io.BytesIO(state["parameters"]), map_location=model.device), device=model.device)
    vars(model).update(state["numbers"])
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        vars(normalize).update(state["statistics"])
