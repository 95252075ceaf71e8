"""
Plain data of a search space: which values of a constructor's argument are worth trying.

An algorithm declares its own as ``search_space``; :mod:`sb3_pgx.settings.search_spaces` samples from it. Nothing here imports
Optuna: a trial is any object with its ``suggest_*`` methods, and its parameters are a dictionary of numbers and strings.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Arguments = dict[str, Any]  # arguments of an algorithm's constructor
Params = dict[str, Any]  # parameters of a trial


class Dimension(Protocol):
    """One dimension of a search space. Converts between parameters of a trial and arguments of a constructor."""

    def suggest(self, trial: "BaseTrial") -> Params:
        """Return the parameters that the trial suggests, by the names under which Optuna stores them."""

    def decode(self, params: Params) -> Arguments:
        """Return the constructor arguments for these parameters."""

    def encode(self, arguments: Arguments) -> Params:
        """Return the parameters that give these arguments; empty if there are none in the search space."""


@dataclass(frozen=True)
class Real:
    """
    A positive number on a logarithmic scale.

    :param argument: name of the constructor's argument
    :param low: smallest value
    :param high: largest value
    :param zero_below: values below this one mean 0, which a logarithmic scale cannot represent
    :param complement: whether to search 1 − the argument, under the name ``one_minus_<argument>``
    """

    argument: str
    low: float
    high: float
    zero_below: float | None = None
    complement: bool = False

    @property
    def name(self) -> str:
        """Name of the trial's parameter."""
        return f"one_minus_{self.argument}" if self.complement else self.argument

    def suggest(self, trial: "BaseTrial") -> Params:
        """Suggest the number on a logarithmic scale."""
        return {self.name: trial.suggest_float(self.name, self.low, self.high, log=True)}

    def decode(self, params: Params) -> Arguments:
        """Return the argument: 0 for numbers below ``zero_below``, and 1 − the number with ``complement``."""
        value = params[self.name]
        if self.zero_below is not None and value < self.zero_below:
            value = 0.0
        return {self.argument: 1 - value if self.complement else value}

    def encode(self, arguments: Arguments) -> Params:
        """Return the trial's number for this argument; nothing if it is out of range."""
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
    """A positive number on a logarithmic scale, constant or with linear decay to 0: ``0.001`` or ``"lin_0.001"``."""

    argument: str
    low: float
    high: float

    def suggest(self, trial: "BaseTrial") -> Params:
        """Suggest the start value on a logarithmic scale, and whether it decays."""
        return {
            self.argument: trial.suggest_float(self.argument, self.low, self.high, log=True),
            self._schedule: trial.suggest_categorical(self._schedule, ["constant", "linear"]),
        }

    def decode(self, params: Params) -> Arguments:
        """Return the number, or a string such as ``"lin_0.001"``."""
        value = params[self.argument]
        return {self.argument: f"lin_{value}" if params[self._schedule] == "linear" else value}

    def encode(self, arguments: Arguments) -> Params:
        """Return the start value and the kind of schedule; nothing if the value is out of range."""
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
    """A whole number, on a logarithmic scale if ``log`` is true."""

    argument: str
    low: int
    high: int
    log: bool = False

    def suggest(self, trial: "BaseTrial") -> Params:
        """Suggest a whole number."""
        return {self.argument: trial.suggest_int(self.argument, self.low, self.high, log=self.log)}

    def decode(self, params: Params) -> Arguments:
        """Return the number as the argument."""
        return {self.argument: params[self.argument]}

    def encode(self, arguments: Arguments) -> Params:
        """Return the number; nothing if it is not a whole number within the range."""
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
        """Suggest k."""
        return {self._name: trial.suggest_int(self._name, self.low, self.high)}

    def decode(self, params: Params) -> Arguments:
        """Return 2^k."""
        return {self.argument: 2 ** params[self._name]}

    def encode(self, arguments: Arguments) -> Params:
        """Return k; nothing if the argument is not such a power."""
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
        """Suggest one of the values."""
        return {self.argument: trial.suggest_categorical(self.argument, list(self.options))}

    def decode(self, params: Params) -> Arguments:
        """Return the value as the argument."""
        return dict(params)

    def encode(self, arguments: Arguments) -> Params:
        """Return the value; nothing if it is not one of the options."""
        if self.argument not in arguments:
            return {}
        value = arguments[self.argument]
        # Python considers 1, 1.0 and True equal; here, a Boolean is not a number.
        same = [option for option in self.options if option == value and isinstance(option, bool) == isinstance(value, bool)]
        return {self.argument: same[0]} if same else {}


@dataclass(frozen=True)
class PolicyOption:
    """One of a few named values for an argument of the policy, which goes into ``policy_kwargs``."""

    argument: str
    options: Mapping[str, Any]
    default: str  # name of the value that SB3's policies have by default

    def __repr__(self) -> str:
        return f"PolicyOption({self.argument!r}, {', '.join(self.options)})"

    def suggest(self, trial: "BaseTrial") -> Params:
        """Suggest the name of a value."""
        return {self.argument: trial.suggest_categorical(self.argument, list(self.options))}

    def decode(self, params: Params) -> Arguments:
        """Return ``policy_kwargs`` with the value of that name."""
        value = self.options[params[self.argument]]
        return {"policy_kwargs": {self.argument: list(value) if isinstance(value, list) else value}}

    def encode(self, arguments: Arguments) -> Params:
        """Return the name of the value in ``policy_kwargs``; nothing if it is not one of the options."""
        kwargs = arguments.get("policy_kwargs") or {}
        if self.argument not in kwargs:
            return {self.argument: self.default}
        value = kwargs[self.argument]
        if isinstance(value, Mapping) and value.get("pi") == value.get("vf"):
            value = value.get("pi")  # for equal layers, SB3 builds the same networks from the list alone
        name = next((name for name, option in self.options.items() if option == value), None)
        return {} if name is None else {self.argument: name}


GAMMA = Real("gamma", 5e-5, 0.2, zero_below=1e-4, complement=True)
GAE_LAMBDA = Real("gae_lambda", 1e-3, 0.3, zero_below=2e-3, complement=True)
ENTROPY = Real("ent_coef", 1e-6, 0.1, zero_below=1e-5)
LEARNING_RATE = Scheduled("learning_rate", 1e-5, 1e-2)
MAX_GRAD_NORM = Real("max_grad_norm", 0.3, 5.0)
NETWORK = (
    PolicyOption("net_arch", {"tiny": [64], "small": [64, 64], "medium": [256, 256]}, default="small"),
    PolicyOption("activation_fn", {"tanh": nn.Tanh, "relu": nn.ReLU}, default="tanh"),
)
# Of the policies of algorithms with a replay memory, by the network that they have by default.
OFF_POLICY_NETWORKS = {
    default: (
        PolicyOption("net_arch", {"small": [64, 64], "medium": [256, 256], "large": [400, 300]}, default),
        PolicyOption("activation_fn", {"tanh": nn.Tanh, "relu": nn.ReLU}, default="relu"),
    )
    for default in ("medium", "large")
}
# Of a recurrent policy, whatever its network: units of a layer, and whether the critic has a network of its own.
MEMORY = (
    PolicyOption("lstm_hidden_size", {str(n): n for n in (32, 64, 128, 256)}, "256"),
    PolicyOption("enable_critic_lstm", {"yes": True, "no": False}, "yes"),
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
# Of algorithms with a replay memory.
OFF_POLICY = (LEARNING_RATE, GAMMA, PowerOfTwo("batch_size", 5, 10), Real("tau", 1e-3, 0.1))
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


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return None if "_" in value else float(value)  # Python reads 1_0 as 10, but "lin_1_0" is not "lin_10"
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
