"""
Where to search for each algorithm's hyperparameters, and how a trial's parameters become a constructor's arguments and back.

Nothing here imports Optuna: a trial is whatever has its ``suggest_*`` methods, and parameters are a dictionary of numbers and
words, as Optuna stores them.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from sb3_pgx.registry import algorithm_class
from sb3_pgx.settings.configs import DEFAULT_N_ENVS, RunConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Arguments = dict[str, Any]  # of a constructor
Params = dict[str, Any]  # of a trial


class Dimension(Protocol):
    """One choice of a search space: what a trial is asked, and what the answer means to the constructor."""

    def suggest(self, trial: "BaseTrial") -> Params:
        """The trial's answer, by the names under which Optuna keeps it."""

    def decode(self, params: Params) -> Arguments:
        """Constructor arguments for that answer."""

    def encode(self, arguments: Arguments) -> Params:
        """The answer that gives these arguments; empty where none does."""


@dataclass(frozen=True)
class Real:
    """
    A positive number on a logarithmic scale.

    :param argument: of the constructor
    :param low: least value
    :param high: largest value
    :param zero_below: values below it, the lowest part of the scale, stand for 0, which has no logarithm
    :param complement: search 1 − the argument, under the name ``one_minus_<argument>``
    """

    argument: str
    low: float
    high: float
    zero_below: float | None = None
    complement: bool = False

    @property
    def name(self) -> str:
        return f"one_minus_{self.argument}" if self.complement else self.argument

    def suggest(self, trial: "BaseTrial") -> Params:
        return {self.name: trial.suggest_float(self.name, self.low, self.high, log=True)}

    def decode(self, params: Params) -> Arguments:
        value = params[self.name]
        if self.zero_below is not None and value < self.zero_below:
            value = 0.0
        return {self.argument: 1 - value if self.complement else value}

    def encode(self, arguments: Arguments) -> Params:
        value = _number(arguments.get(self.argument))
        if value is None:
            return {}
        value = 1 - value if self.complement else value
        if self.zero_below is not None and value == 0:
            return {self.name: self.low}
        for end in (low := self.zero_below or self.low, self.high):
            if math.isclose(value, end):  # 1 - 0.7 is a little more than 0.3
                value = end
        return {self.name: value} if low <= value <= self.high else {}


@dataclass(frozen=True)
class Scheduled:
    """A positive number on a logarithmic scale that stays, or falls linearly to 0: ``0.001`` or ``"lin_0.001"``."""

    argument: str
    low: float
    high: float

    def suggest(self, trial: "BaseTrial") -> Params:
        return {
            self.argument: trial.suggest_float(self.argument, self.low, self.high, log=True),
            self._schedule: trial.suggest_categorical(self._schedule, ["constant", "linear"]),
        }

    def decode(self, params: Params) -> Arguments:
        value = params[self.argument]
        return {self.argument: f"lin_{value}" if params[self._schedule] == "linear" else value}

    def encode(self, arguments: Arguments) -> Params:
        value = arguments.get(self.argument)
        linear = isinstance(value, str) and value.startswith("lin_")
        number = _number(value.removeprefix("lin_") if isinstance(value, str) and linear else value)
        if number is None or not self.low <= number <= self.high:
            return {}
        return {self.argument: number, self._schedule: "linear" if linear else "constant"}

    @property
    def _schedule(self) -> str:
        return f"{self.argument}_schedule"


@dataclass(frozen=True)
class Whole:
    """A whole number; on a logarithmic scale where its order of magnitude is what matters."""

    argument: str
    low: int
    high: int
    log: bool = False

    def suggest(self, trial: "BaseTrial") -> Params:
        return {self.argument: trial.suggest_int(self.argument, self.low, self.high, log=self.log)}

    def decode(self, params: Params) -> Arguments:
        return {self.argument: params[self.argument]}

    def encode(self, arguments: Arguments) -> Params:
        value = _number(arguments.get(self.argument))
        fits = value is not None and value.is_integer() and self.low <= value <= self.high
        return {self.argument: int(value)} if fits and value is not None else {}


@dataclass(frozen=True)
class PowerOfTwo:
    """2^k for k from ``low`` to ``high``, searched as k under the name ``<argument>_pow``, as rl_zoo3 does."""

    argument: str
    low: int
    high: int

    def suggest(self, trial: "BaseTrial") -> Params:
        return {self._name: trial.suggest_int(self._name, self.low, self.high)}

    def decode(self, params: Params) -> Arguments:
        return {self.argument: 2 ** params[self._name]}

    def encode(self, arguments: Arguments) -> Params:
        value = _number(arguments.get(self.argument))
        power = next((k for k in range(self.low, self.high + 1) if value == 2**k), None)
        return {} if power is None else {self._name: power}

    @property
    def _name(self) -> str:
        return f"{self.argument}_pow"


@dataclass(frozen=True)
class Categorical:
    """One of a few values."""

    argument: str
    options: tuple[bool | int | float | str | None, ...]

    def suggest(self, trial: "BaseTrial") -> Params:
        return {self.argument: trial.suggest_categorical(self.argument, list(self.options))}

    def decode(self, params: Params) -> Arguments:
        return dict(params)

    def encode(self, arguments: Arguments) -> Params:
        if self.argument not in arguments:
            return {}
        value = arguments[self.argument]
        # 1 and 1.0 and True are equal to Python; a Boolean is not a number here.
        same = [option for option in self.options if option == value and isinstance(option, bool) == isinstance(value, bool)]
        return {self.argument: same[0]} if same else {}


@dataclass(frozen=True)
class OfPolicy:
    """One of a few values, each with a name, for an argument of the policy: it goes into ``policy_kwargs``."""

    argument: str
    options: Mapping[str, Any]
    default: str  # what SB3's policies do where policy_kwargs does not say

    def __repr__(self) -> str:
        return f"OfPolicy({self.argument!r}, {', '.join(self.options)})"

    def suggest(self, trial: "BaseTrial") -> Params:
        return {self.argument: trial.suggest_categorical(self.argument, list(self.options))}

    def decode(self, params: Params) -> Arguments:
        value = self.options[params[self.argument]]
        return {"policy_kwargs": {self.argument: list(value) if isinstance(value, list) else value}}

    def encode(self, arguments: Arguments) -> Params:
        kwargs = arguments.get("policy_kwargs") or {}
        if self.argument not in kwargs:
            return {self.argument: self.default}
        value = kwargs[self.argument]
        if isinstance(value, Mapping) and value.get("pi") == value.get("vf"):
            value = value.get("pi")  # the same layers for both: SB3 builds the same networks for the list alone
        name = next((name for name, option in self.options.items() if option == value), None)
        return {} if name is None else {self.argument: name}


GAMMA = Real("gamma", 5e-5, 0.2, zero_below=1e-4, complement=True)
GAE_LAMBDA = Real("gae_lambda", 1e-3, 0.3, zero_below=2e-3, complement=True)
ENTROPY = Real("ent_coef", 1e-6, 0.1, zero_below=1e-5)
LEARNING_RATE = Scheduled("learning_rate", 1e-5, 1e-2)
MAX_GRAD_NORM = Real("max_grad_norm", 0.3, 5.0)
NETWORK = (
    OfPolicy("net_arch", {"tiny": [64], "small": [64, 64], "medium": [256, 256]}, default="small"),
    OfPolicy("activation_fn", {"tanh": nn.Tanh, "relu": nn.ReLU}, default="tanh"),
)

MINIBATCHES = (PowerOfTwo("n_steps", 4, 11), PowerOfTwo("batch_size", 4, 11))
EPOCHS = (
    LEARNING_RATE,
    *MINIBATCHES,
    Whole("n_epochs", 1, 20),
    GAMMA,
    GAE_LAMBDA,
    ENTROPY,
    MAX_GRAD_NORM,
)
EPISODES = (
    Scheduled("learning_rate", 1e-4, 3e-2),
    Whole("n_episodes", 1, 8, log=True),
    GAMMA,
    ENTROPY,
    Categorical("max_grad_norm", (None, 0.5, 1.0, 5.0)),
)
NATURAL = (
    LEARNING_RATE,  # the critic's
    *MINIBATCHES,
    Whole("n_critic_updates", 1, 30),
    GAMMA,
    GAE_LAMBDA,
    Real("target_kl", 1e-3, 0.1),
    Real("cg_damping", 1e-3, 1.0),
    Whole("cg_max_steps", 5, 25),
)

SEARCH_SPACES: dict[str, tuple[Dimension, ...]] = {
    "a2c": (
        LEARNING_RATE,
        Whole("n_steps", 4, 128, log=True),
        GAMMA,
        GAE_LAMBDA,
        ENTROPY,
        MAX_GRAD_NORM,
        Real("vf_coef", 0.1, 1.0),
        Categorical("normalize_advantage", (False, True)),
        Categorical("use_rms_prop", (True, False)),
    ),
    "acer": (
        Scheduled("learning_rate", 1e-4, 1e-2),
        Whole("n_steps", 5, 100, log=True),
        GAMMA,
        ENTROPY,
        Real("max_grad_norm", 0.3, 20.0),
        Whole("replay_ratio", 1, 8),
        Categorical("replay_batch", (None, 16, 32, 64)),
        Real("q_coef", 0.1, 20.0),
        Real("importance_clip", 0.1, 20.0),
        Real("trust_region_delta", 1e-3, 3.0),
        Real("average_coef", 1e-3, 0.1, complement=True),
        Categorical("use_rms_prop", (True, False)),
    ),
    "npg": NATURAL,
    "ppo": (*EPOCHS, Scheduled("clip_range", 0.05, 0.4)),
    "ppo_penalty": (*EPOCHS, Real("kl_coef", 0.1, 10.0), Real("target_kl", 1e-3, 0.1)),
    "reinforce": (
        *EPISODES,
        Categorical("baseline", (None, "mean", "loo", "optimal")),
        Categorical("normalize_returns", (False, True)),
    ),
    "reinforce_baseline": (
        *EPISODES,
        Scheduled("critic_learning_rate", 1e-4, 1e-2),
        Whole("n_critic_updates", 1, 20),
        Categorical("normalize_advantage", (False, True)),
    ),
    "trpo": NATURAL,
}


def search_space(algorithm: str, policy: str = "MlpPolicy") -> tuple[Dimension, ...]:
    """
    :param algorithm: a name of the registry, such as ``"ppo"``
    :param policy: with ``CnnPolicy`` the network stays as it is: layers after its convolutions are the exception
    :return: the choices of its search space
    :raises ValueError: no algorithm of that name; gives the nearest ones
    """
    algorithm_class(algorithm)
    return (*SEARCH_SPACES[algorithm], *(() if policy == "CnnPolicy" else NETWORK))


def sample_params(
    algorithm: str,
    trial: "BaseTrial",
    n_envs: int = DEFAULT_N_ENVS,
    policy: str = "MlpPolicy",
    timesteps: int | None = None,
) -> dict[str, Any]:
    """
    Hyperparameters that a trial suggests.

    :param algorithm: a name of the registry, such as ``"ppo"``
    :param trial: Optuna's
    :param n_envs: environments that the model will train in: minibatches are no larger than a rollout
    :param policy: that the model will have
    :param timesteps: that the training will have: rollouts are no longer, lest it ends before the first update; None where
        that does not matter
    :return: arguments for the constructor, ``policy_kwargs`` among them
    :raises ValueError: no algorithm of that name; gives the nearest ones
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
    What :func:`sample_params` returned for the trial that has these parameters.

    :param algorithm: a name of the registry
    :param params: ``trial.params``, all of them
    :param n_envs: environments that the model will train in
    :param policy: that the model will have
    :param timesteps: that the training will have
    :raises ValueError: no algorithm of that name, or a parameter is missing
    """
    arguments: Arguments = {}
    for dimension in search_space(algorithm, policy):
        names = _names(dimension)
        if missing := [name for name in names if name not in params]:
            raise ValueError(f"the parameters of a trial of {algorithm} have no {' and no '.join(missing)}")
        arguments = merged(arguments, dimension.decode({name: params[name] for name in names}))
    return _fitting(arguments, n_envs, timesteps)


def params_of(algorithm: str, config: RunConfig) -> dict[str, Any]:
    """
    The other way round: parameters of the trial that trains with this configuration, for ``study.enqueue_trial``. What the
    configuration leaves to the class is the class's default; values outside of the search space are left out.

    :param algorithm: a name of the registry
    :param config: its settings
    :raises ValueError: no algorithm of that name; gives the nearest ones
    """
    arguments = {**_defaults(algorithm), **config.hyperparameters}
    params: Params = {}
    for dimension in search_space(algorithm, config.policy):
        params.update(dimension.encode(arguments))
    return params


def names_of(algorithm: str, policy: str = "MlpPolicy") -> tuple[str, ...]:
    """The names of a trial's parameters, in the order in which they are suggested."""
    return tuple(name for dimension in search_space(algorithm, policy) for name in _names(dimension))


def merged(hyperparameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with changes; those of ``policy_kwargs`` are merged, so that what it says besides stays."""
    result = {**hyperparameters, **changes}
    if "policy_kwargs" in hyperparameters and "policy_kwargs" in changes:
        result["policy_kwargs"] = {**(hyperparameters["policy_kwargs"] or {}), **(changes["policy_kwargs"] or {})}
    return result


def _names(dimension: Dimension) -> Iterable[str]:
    return dimension.suggest(_Namer()).keys()  # type: ignore[arg-type]


class _Namer:
    """A trial that answers anything, to learn what it is asked."""

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[0]


def _fitting(arguments: Arguments, n_envs: int, timesteps: int | None) -> Arguments:
    """Where arguments that are allowed each make no sense together, or in so short a training, the nearest that do."""
    if timesteps is not None and "n_steps" in arguments:
        while arguments["n_steps"] > max(timesteps // n_envs, 1):
            arguments["n_steps"] //= 2  # a power of two, of which minibatches are whole shares, stays one
    if "batch_size" in arguments:
        arguments["batch_size"] = min(arguments["batch_size"], arguments["n_steps"] * n_envs)
    if arguments.get("baseline") in ("loo", "optimal") and arguments["n_episodes"] * n_envs < 2:
        arguments["n_episodes"] = 2  # the other episodes, of which there has to be one
    return arguments


def _defaults(algorithm: str) -> Arguments:
    parameters = inspect.signature(algorithm_class(algorithm)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return None if "_" in value else float(value)  # "lin_1_0" is no 10, whatever Python makes of 1_0
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
