"""
Search spaces of each algorithm's hyperparameters, and the conversion between a trial's parameters and constructor arguments.

Nothing here imports Optuna. A trial is any object with its ``suggest_*`` methods; parameters are a dictionary of numbers and
texts, as Optuna stores them.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sb3_pgx.core.policy_names import RECURRENT_POLICIES
from sb3_pgx.core.search_space import MEMORY, NETWORK, Arguments, Dimension, Params
from sb3_pgx.registry import OFF_POLICY, algorithm_class
from sb3_pgx.settings.configs import DEFAULT_N_ENVS, RunConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def search_space(algorithm: str, policy: str = "MlpPolicy") -> tuple[Dimension, ...]:
    """
    Return the search space of an algorithm.

    :param algorithm: a name of the registry, such as ``"ppo"``
    :param policy: name of the policy; the convolutions of ``CnnPolicy`` and its like are not searched
    :raises ValueError: there is no algorithm of that name; the message gives the nearest ones
    """
    cls = algorithm_class(algorithm)
    layers = () if policy.startswith("Cnn") else getattr(cls, "networks", NETWORK)
    return (*cls.search_space, *layers, *(MEMORY if policy in RECURRENT_POLICIES else ()))


def sample_params(
    algorithm: str,
    trial: "BaseTrial",
    n_envs: int = DEFAULT_N_ENVS,
    policy: str = "MlpPolicy",
    timesteps: int | None = None,
) -> dict[str, Any]:
    """
    Return hyperparameters that a trial suggests.

    :param algorithm: a name of the registry, such as ``"ppo"``
    :param trial: Optuna's trial
    :param n_envs: number of environments for training, which bounds the minibatches by the size of a rollout
    :param policy: name of the model's policy
    :param timesteps: environment steps of a run. Rollouts are not longer, so that there is at least one update. ``None``: no
        bound
    :return: arguments of the constructor, including ``policy_kwargs``
    :raises ValueError: there is no algorithm of that name; the message gives the nearest ones
    """
    params: Params = {}
    for dimension in search_space(algorithm, policy):
        params.update(dimension.suggest(trial))
    return arguments_of(algorithm, params, n_envs, policy, timesteps)


def arguments_of(
    algorithm: str,
    params: Mapping[str, Any],
    n_envs: int = DEFAULT_N_ENVS,
    policy: str = "MlpPolicy",
    timesteps: int | None = None,
) -> dict[str, Any]:
    """
    Return the value that :func:`sample_params` returned for the trial with these parameters.

    :param algorithm: a name of the registry
    :param params: all of ``trial.params``
    :param n_envs: number of environments, as in :func:`sample_params`
    :param policy: name of the policy, as in :func:`sample_params`
    :param timesteps: environment steps of a run, as in :func:`sample_params`
    :raises ValueError: there is no algorithm of that name, or a parameter is missing
    """
    arguments: Arguments = {}
    for dimension in search_space(algorithm, policy):
        names = _names(dimension)
        if missing := [name for name in names if name not in params]:
            raise ValueError(f"the parameters of a trial of {algorithm} have no {' and no '.join(missing)}")
        arguments = merged(arguments, dimension.decode({name: params[name] for name in names}))
    return arguments if algorithm in OFF_POLICY else _fitting(arguments, n_envs, timesteps)


def params_of(algorithm: str, config: RunConfig) -> dict[str, Any]:
    """
    Return the parameters of a trial that trains with this configuration, for ``study.enqueue_trial``. Missing hyperparameters
    have the defaults of the class. Values outside of the search space are left out.

    :param algorithm: a name of the registry
    :param config: the settings
    :raises ValueError: there is no algorithm of that name; the message gives the nearest ones
    """
    arguments = {**_defaults(algorithm), **config.hyperparameters}
    params: Params = {}
    for dimension in search_space(algorithm, config.policy):
        params.update(dimension.encode(arguments))
    return params


def names_of(algorithm: str, policy: str = "MlpPolicy") -> tuple[str, ...]:
    """Return the names of a trial's parameters, in the order in which they are suggested."""
    return tuple(name for dimension in search_space(algorithm, policy) for name in _names(dimension))


def merged(hyperparameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with changes. The entries of ``policy_kwargs`` are merged one by one."""
    result = {**hyperparameters, **changes}
    if "policy_kwargs" in hyperparameters and "policy_kwargs" in changes:
        result["policy_kwargs"] = {**(hyperparameters["policy_kwargs"] or {}), **(changes["policy_kwargs"] or {})}
    return result


def _names(dimension: Dimension) -> Iterable[str]:
    return dimension.suggest(_Namer()).keys()  # type: ignore[arg-type]


class _Namer:
    """A trial that records nothing and suggests any value, to find the names of a dimension's parameters."""

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[0]


def _fitting(arguments: Arguments, n_envs: int, timesteps: int | None) -> Arguments:
    """
    Adjust arguments of an algorithm with rollouts that are valid each, but not together or not in so short a run, to the
    nearest valid ones.
    """
    if timesteps is not None and "n_steps" in arguments:
        while arguments["n_steps"] > max(timesteps // n_envs, 1):
            arguments["n_steps"] //= 2  # keeps powers of two, which minibatches divide evenly
    if "batch_size" in arguments and "n_steps" in arguments:
        arguments["batch_size"] = min(arguments["batch_size"], arguments["n_steps"] * n_envs)
    if arguments.get("baseline") in ("loo", "optimal") and arguments["n_episodes"] * n_envs < 2:
        arguments["n_episodes"] = 2  # these baselines use the other episodes of the batch
    return arguments


def _defaults(algorithm: str) -> Arguments:
    parameters = inspect.signature(algorithm_class(algorithm)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
