"""The processes that train one model together, and what makes their models the same."""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_pgx.core.distributions import noise_source
from sb3_pgx.core.rollout import Batch
from sb3_pgx.core.undo import is_scalar
from sb3_pgx.parallel.processes import Processes
from sb3_pgx.parallel.reductions import Reduction
from sb3_pgx.parallel.same import check_same
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

    def taken_actions(self, model: Any) -> Any:
        """
        Let all processes act for a rollout, if they do so before the first process steps through it.

        :param model: that collects
        :return: the sampler of the actions that they have taken; ``None``: this process acts step by step
        """
        return None

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


class SharedNoise(Team):
    """
    Processes that all act, each in its own environments. Random numbers are drawn for the environments of all processes, and
    each process uses its rows. So actions do not depend on the number of processes, but for rounding.

    :param processes: of the run, with random generators in the same state
    """

    draws_for_all = True

    def __init__(self, processes: Processes):
        self.processes = processes

    def noise_source(self, distribution: Distribution, n: int, device: th.device) -> Callable[[], Tensor]:
        if isinstance(distribution, StateDependentNoiseDistribution):  # whose noise is that of `reset_noise`
            return noise_source(distribution, n, device)
        total = n * self.processes.size
        rows, draw = self.processes.rows(total), noise_source(distribution, total, device)
        return lambda: draw()[rows.start : rows.stop]

    def reset_noise(self, policy: Any, n: int) -> None:
        total = n * self.processes.size
        rows, distribution = self.processes.rows(total), policy.action_dist
        policy.reset_noise(total)
        distribution.exploration_matrices = distribution.exploration_matrices[rows.start : rows.stop]
        distribution.exploration_mat = distribution.exploration_matrices[0]  # which SB3 uses for a single environment


ALONE = Team()


def agree(processes: Processes, model: Any, total_timesteps: int) -> None:
    """
    Check that all processes are about to do the same. If an error has ended a ``learn`` before, they may have ended it at
    different steps, and all get the first one's model.

    :param processes: of the run
    :param model: of this process
    :param total_timesteps: of ``learn``
    :raises ValueError: they are about to do different things; the same error in all processes
    """
    counters = {"num_timesteps": model.num_timesteps, "n_gradient_steps": model.n_gradient_steps}
    check_same(processes, {**_arguments(model), **({} if processes.n_left else counters), "total_timesteps": total_timesteps})
    if processes.n_left:
        restore(model, processes.from_first(state_of(model)))


def _arguments(model: Any) -> dict[str, Any]:
    """Return the arguments of a model that must be the same in all processes."""
    arguments = {name: getattr(model, name, None) for name in inspect.signature(type(model)).parameters if name not in _OWN}
    comparable = {name: value for name, value in arguments.items() if " at 0x" not in repr(value)}
    return {"the algorithm": type(model).__name__, "the policy": model.policy_class.__name__, **comparable}


def check_none(reasons: Mapping[Any, bool], does: str) -> None:
    """
    Check that no reason holds why processes cannot share the work in some way.

    :param reasons: by reason, whether it holds
    :param does: what they would do, for the error
    :raises ValueError: a reason holds
    """
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ValueError(f'{does}, but {reason}: use parallel="gather"')


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
