"""
Turns a name such as ``reinforce``, ``sb3:ppo`` or ``trpo[critic=trust_region]`` into a class and changes of its settings.
Algorithms of this package, their variants and their peers in other packages can then run side by side.
"""

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.core.optional_packages import installed_versions
from sb3_pgx.core.schedules import as_schedule
from sb3_pgx.registry import EVERY_ALGORITHM, SEVERAL_AGENTS, algorithm_class
from sb3_pgx.settings.configs import CLASS_DEFAULTS, RunConfig, check_hyperparameters, is_numeric_text, load_config, suggestion
from sb3_pgx.settings.environments import check_environment, choose_policy

FLAX_NAMES = {"LeakyReLU": "leaky_relu", "Hardtanh": "hard_tanh"}  # names that are not PyTorch's in lower case
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")


@dataclass(frozen=True)
class Origin:
    """A package that holds peers: its module, the name under which pip installs it, and its algorithm classes."""

    module: str
    distribution: str
    classes: tuple[str, ...]

    def load(self, name: str) -> ModuleType:
        """
        Import the package.

        :param name: name of the algorithm that needs it, for the error
        :raises ImportError: the package is not installed; the message says how to install it
        """
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError:
            remedy = f"pip install {self.distribution}"
            raise ImportError(f"{name} needs {self.module}, which is not installed: {remedy}") from None


PEERS = {
    "sb3": Origin("stable_baselines3", "stable_baselines3", ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")),
    "contrib": Origin("sb3_contrib", "sb3_contrib", ("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO")),
    "sbx": Origin("sbx", "sbx-rl", ("CrossQ", "DDPG", "DQN", "PPO", "SAC", "TD3", "TQC")),
}
# Algorithms that this package's PPO does as well; they read its settings.
PPO_WITH_MORE = {"maskableppo": "ppo", "recurrentppo": "ppo"}


@dataclass(frozen=True)
class Peer:
    """
    An algorithm in a comparison.

    :param label: its name in the comparison, such as ``"sb3:ppo"``
    :param algorithm: its class
    :param config_key: name of the hyperparameter file that it reads, without the suffix
    :param changes: hyperparameters that replace those of the file
    """

    label: str
    algorithm: type[BaseAlgorithm]
    config_key: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def adapt(self, config: RunConfig) -> RunConfig:
        """
        Return the settings of this variant, as a file would have them. ``VecNormalize`` gets the variant's γ, as if the file
        contained it.

        :param config: the settings of the file
        :raises ValueError: a string is not a schedule; classes of this package check that themselves
        """
        if self.changes:
            source = f"{config.source}, {', '.join(f'{name}={value}' for name, value in self.changes.items())}"
            config = dataclasses.replace(
                config.with_hyperparameters({**config.hyperparameters, **self.changes}), source=source
            )
        if not _is_ours(self.algorithm):
            _schedules(config.hyperparameters, f"{config.source}: ")
        return config


def prepare(
    name: str, env_id: str, configs: Path | None = None, vec_env: str | None = None
) -> tuple[Peer, RunConfig, EnvSpec]:
    """
    Find and check everything that a run of an algorithm in an environment needs.

    :param name: name of the algorithm, see :func:`resolve_peer`
    :param env_id: Gymnasium's name of the environment
    :param configs: folder of hyperparameter files; default: this package's
    :param vec_env: how the environments step, instead of what the settings say
    :return: the algorithm, its settings in the environment, and Gymnasium's specification of the environment
    :raises ValueError: a name is unknown, or the hyperparameter file has a mistake
    :raises ImportError: a package that the algorithm or the environment needs is not installed
    """
    peer = resolve_peer(name)
    config = peer.adapt(config_of(peer, env_id, configs).with_vec_env(vec_env))
    check_hyperparameters(peer.algorithm, config)
    spec, space = check_environment(env_id, config, peer.algorithm)
    return peer, choose_policy(config, space, peer.algorithm), spec


def config_of(peer: Peer, env_id: str, configs: Path | None = None) -> RunConfig:
    """
    Read the settings of an algorithm. A peer's own file (``contrib_trpo.yml``) comes first if it exists and has settings for
    the environment. Otherwise the peer reads the file of this package's algorithm, so both have the same hyperparameters.

    :param peer: the algorithm
    :param env_id: Gymnasium's name of the environment
    :param configs: folder of hyperparameter files; default: this package's
    :raises ValueError: the hyperparameter file has a mistake
    """
    own = load_config(own_file(peer), env_id, configs)
    return load_config(peer.config_key, env_id, configs) if own.source == CLASS_DEFAULTS else own


def own_file(peer: Peer) -> str:
    """Return the name of the hyperparameter file that only this algorithm reads, without the suffix."""
    return base_name(peer.label).replace(":", "_")


def base_name(label: str) -> str:
    """Return ``sb3:ppo`` for ``sb3:ppo[gamma=0.9]``."""
    return label.partition("[")[0]


def resolve_peer(name: str) -> Peer:
    """
    Find the algorithm of a name.

    :param name: an algorithm of this package, ``sb3:<name>``, ``contrib:<name>`` or ``sbx:<name>``. Hyperparameters in
        brackets replace those of its file: ``trpo[critic=trust_region, target_kl=0.02]``
    :raises ValueError: there is no such algorithm; the message gives the nearest names
    :raises ImportError: the package that holds it is not installed; the message says how to install it
    """
    base = base_name(name)
    changes = _changes(name, name[len(base) + 1 :]) if base != name else {}
    origin, colon, key = base.partition(":")
    if not colon:
        return Peer(name, SEVERAL_AGENTS.get(base) or algorithm_class(base), base, changes)
    known = [f"{prefix}:{c.lower()}" for prefix, peers in PEERS.items() for c in peers.classes]
    if base not in known:
        hint = suggestion(base, [*known, *EVERY_ALGORITHM]) or f"; choose one of {', '.join([*EVERY_ALGORITHM, *known])}"
        raise ValueError(f"algorithm {base!r} is unknown{hint}")
    module = PEERS[origin].load(base)
    cls = getattr(module, next(c for c in PEERS[origin].classes if c.lower() == key))
    return Peer(name, cls, PPO_WITH_MORE.get(key, key), changes)


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages other than SB3 that these algorithms come from."""
    bases = map(base_name, names)
    origins = dict.fromkeys(base.partition(":")[0] for base in bases if ":" in base)
    return installed_versions(PEERS[origin].distribution for origin in origins if origin != "sb3")


def constructor_arguments(algorithm: type[BaseAlgorithm], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return hyperparameters in a form that the class accepts. For classes of other packages, schedules such as ``lin_<x>``
    become functions. SBX's policies use JAX: PyTorch's activation modules become flax's functions of the same name.

    :param algorithm: the class
    :param hyperparameters: arguments for its constructor
    :raises ValueError: a string is not a schedule, or flax has no such function
    """
    if not _is_ours(algorithm):
        hyperparameters = {**hyperparameters, **_schedules(hyperparameters)}
    policy_kwargs = hyperparameters.get("policy_kwargs") or {}
    activation = policy_kwargs.get("activation_fn")
    if algorithm.__module__.partition(".")[0] != PEERS["sbx"].module or not isinstance(activation, type):
        return dict(hyperparameters)
    functions = importlib.import_module("flax.linen")
    name = FLAX_NAMES.get(activation.__name__, activation.__name__.lower())
    if not hasattr(functions, name):
        raise ValueError(f"activation_fn={activation.__name__}: flax has no function {name!r}; choose another one for SBX")
    return {**hyperparameters, "policy_kwargs": {**policy_kwargs, "activation_fn": getattr(functions, name)}}


def _is_ours(algorithm: type[BaseAlgorithm]) -> bool:
    return issubclass(algorithm, (*EVERY_ALGORITHM.values(), *SEVERAL_AGENTS.values()))


def _schedules(hyperparameters: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """
    Return the schedules among hyperparameters as functions.

    :param hyperparameters: as a file has them
    :param place: where they come from, for the error
    :raises ValueError: a string is not a schedule
    """
    return {
        name: as_schedule(value, f"{place}{name}")
        for name, value in hyperparameters.items()
        if name in SCHEDULES and isinstance(value, str)
    }


def _changes(name: str, text: str) -> dict[str, Any]:
    """Read the hyperparameters in the brackets as YAML does, except that 1e-3 is a number and not a text."""
    import yaml

    refusal = ValueError(
        f"algorithm {name!r}: write name[hyperparameter=value, hyperparameter=value], with {{key: value}} for a dictionary"
    )
    pairs, count = re.subn(r"(\w+)\s*=\s*(?=[^\s,=\]])", r"\1: ", text)
    try:
        values = yaml.safe_load(f"{{{pairs.removesuffix(']')}}}")
    except yaml.YAMLError:
        raise refusal from None
    if not text.endswith("]") or count == 0 or len(values) != count or "(" in text:
        raise refusal
    return {key: _read(value) if isinstance(value, str) else value for key, value in values.items()}


def _read(value: str) -> Any:
    """Convert a text of YAML that is a number or ``None`` in Python."""
    return None if value == "None" else float(value) if is_numeric_text(value) else value
