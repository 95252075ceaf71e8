"""
Reads hyperparameter files in rl_zoo3's format, so that rl_zoo3's commands, comparisons and searches share the same files.

Reading a file executes nothing in it. The wrappers that it names are imported when an environment is made.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.settings.action_noise import KEYS as NOISE
from sb3_pgx.settings.expressions import evaluate_expression
from sb3_pgx.settings.registration import register_environment

DEFAULT_N_ENVS = 8
# How environments step: one by one as SB3's VecEnvs do, in this process or in processes of their own, or as arrays.
DUMMY, SUBPROC, VECTOR, ENVPOOL = VEC_ENVS = ("dummy", "subproc", "vector", "envpool")
CLASS_DEFAULTS = "defaults of the class"
UNSUPPORTED_KEYS = ("callback", "vec_env_wrapper", "monitor_kwargs")
TRUSTED = ("gymnasium", "stable_baselines3", "sb3_contrib", "sb3_pgx", "rl_zoo3")  # may be imported to check a name
# Keys of a file that are not arguments of the algorithm.
AROUND = ("policy", "n_envs", "n_timesteps", "normalize", "env_kwargs", "env_wrapper", "frame_stack", "vec_env")
RESERVED_ARGUMENTS = ("policy", "env", "seed", "verbose")
EVALUATED = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "normalize", "monitor_kwargs")  # with eval()


@dataclass(frozen=True)
class RunConfig:
    """
    The settings of one algorithm in one environment.

    :param source: where the settings came from, such as ``"ppo.yml: CartPole-v1"``
    :param policy: name of the policy
    :param n_envs: number of parallel environments
    :param n_timesteps: environment steps of a run, summed over the parallel environments; ``None`` if the file has none
    :param normalize: keyword arguments of ``VecNormalize``; ``None`` for no normalisation
    :param env_kwargs: keyword arguments of ``gymnasium.make``
    :param wrappers: dotted names of wrappers with their keyword arguments, innermost first
    :param frame_stack: number of frames for ``VecFrameStack``; ``None`` for none
    :param vec_env: how the environments step, one of :data:`VEC_ENVS`
    :param hyperparameters: keyword arguments of the algorithm's constructor
    """

    source: str
    policy: str = "MlpPolicy"
    n_envs: int = DEFAULT_N_ENVS
    n_timesteps: int | None = None
    normalize: dict[str, Any] | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[tuple[str, dict[str, Any]], ...] = ()
    frame_stack: int | None = None
    vec_env: str = DUMMY
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    @property
    def is_general(self) -> bool:
        """Whether these settings are for any environment: a file's entry ``default``, or the defaults of the class."""
        return self.source.startswith(CLASS_DEFAULTS) or f"{self.source},".partition(": ")[2].startswith("default,")

    def with_vec_env(self, vec_env: str | None) -> "RunConfig":
        """
        Return a copy whose environments step in another way; ``None`` changes nothing.

        :raises ValueError: ``vec_env`` is not one of :data:`VEC_ENVS`
        """
        if vec_env is None:
            return self
        return replace(self, vec_env=check_vec_env(vec_env), source=f"{self.source}, vec_env={vec_env}")

    def with_hyperparameters(self, hyperparameters: dict[str, Any]) -> "RunConfig":
        """Return a copy with other hyperparameters. ``VecNormalize`` gets their γ, as when they are read from a file."""
        normalize = self.normalize
        if normalize is not None and "gamma" in hyperparameters:
            normalize = {**normalize, "gamma": hyperparameters["gamma"]}
        return replace(self, hyperparameters=hyperparameters, normalize=normalize)


def config_folder() -> Path:
    """Return the folder of the hyperparameter files: inside the package in a wheel, next to it in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "zoo_configs"
    return inside if inside.is_dir() else package.parent / "zoo_configs"


def load_config(algo_key: str, env_id: str, folder: Path | None = None) -> RunConfig:
    """
    Load the settings of an algorithm in an environment. ``<algo_key>.yml`` may have them under the environment's name, under
    the name with another module or none (``module:Env-v0`` and ``Env-v0`` are one environment), under ``atari`` for an Atari
    game, or under ``default``; the first of these counts. Otherwise, the settings are the defaults of the class with 8
    environments.

    :param algo_key: name of the file without its suffix, such as ``"ppo"``
    :param env_id: Gymnasium's name of the environment
    :param folder: folder of the file; default: :func:`config_folder`
    :return: the settings; ``source`` says which of the four they are
    :raises ValueError: the file is not valid YAML, or a key in it is unsupported or has a value of the wrong type
    :raises FileNotFoundError: ``folder`` was given and does not exist
    """
    check_folder(folder)
    path = (folder or config_folder()) / f"{algo_key}.yml"
    return read_config(path, env_id, UNSUPPORTED_KEYS) if path.is_file() else RunConfig(source=CLASS_DEFAULTS)


def read_config(
    path: Path, env_id: str, unsupported: tuple[str, ...] = (), changes: Mapping[str, Any] | None = None
) -> RunConfig:
    """
    Read the settings of an environment from one file, in the order of :func:`load_config`.

    :param path: the file
    :param env_id: Gymnasium's name of the environment
    :param unsupported: keys of rl_zoo3 without a meaning here that are refused; other such keys are ignored
    :param changes: values that replace those of the file, by key
    :raises ValueError: the file is not valid YAML, or a key in it is unsupported or has a value of the wrong type
    :raises OSError: the file cannot be read
    """
    entry = _entry(path, env_id, changes)
    return RunConfig(source=CLASS_DEFAULTS) if entry is None else entry.parse(unsupported)


def check_expressions(path: Path, env_id: str) -> None:
    """
    Check the texts that rl_zoo3 would evaluate as Python, in the settings of any algorithm.

    :param path: the file
    :param env_id: Gymnasium's name of the environment
    :raises ValueError: the file is not valid YAML, or a text in it is more than a value; the message names file, line and key
    """
    entry = _entry(path, env_id)
    for key in EVALUATED:
        if entry is not None and isinstance(text := entry.values.get(key), str):
            entry.evaluate(key, text)


def is_atari(env_id: str) -> bool:
    """Return whether the environment is an Atari game, by rl_zoo3's criterion. An unregistered environment is not."""
    with suppress(ImportError):  # reported when the environment is made
        register_environment(env_id)
    spec = gym.registry.get(env_id.rpartition(":")[2])
    return spec is not None and "AtariEnv" in str(spec.entry_point)


def settings_name(path: Path, env_id: str) -> str | None:
    """
    Return the name of the entry that has the settings of an environment, in the order of :func:`load_config`.

    :param path: the file
    :param env_id: Gymnasium's name of the environment
    :return: the name; ``None`` if there is no such entry
    :raises ValueError: the file is not valid YAML
    """
    return _name_among(_read(path)[0], env_id)


def check_folder(folder: Path | None) -> None:
    """
    Check that a folder of hyperparameter files exists, if one was given.

    :raises FileNotFoundError: it does not exist
    """
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"the folder of hyperparameter files {folder} does not exist")


def check_hyperparameters(algorithm: type[BaseAlgorithm], config: RunConfig) -> None:
    """
    Check that the constructor of an algorithm has an argument for each hyperparameter.

    :param algorithm: the class
    :param config: the settings
    :raises ValueError: it has no argument of that name; the message gives the nearest ones
    """
    parameters = inspect.signature(algorithm).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in RESERVED_ARGUMENTS]
    known += NOISE if "action_noise" in parameters else ()
    for name in config.hyperparameters:
        if name not in known:
            hint = suggestion(name, [*known, *AROUND])
            raise ValueError(f"{config.source}: {algorithm.__name__} has no argument {name!r}{hint}")


def check_vec_env(vec_env: Any) -> str:
    """
    Return the value if it is one of :data:`VEC_ENVS`.

    :raises ValueError: it is not; the message gives them
    """
    if vec_env not in VEC_ENVS:
        raise ValueError(f"vec_env {vec_env!r} is unknown; choose {', '.join(VEC_ENVS)}")
    return vec_env


def suggestion(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'gamma'?``, or an empty text if no known name is similar."""
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[other] for other in get_close_matches(name.lower(), by_lower, n=3)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def import_name(dotted: str) -> Any:
    """
    Import the object of a dotted name such as ``"package.module.Class"``.

    :raises ImportError: there is no such module, or nothing of that name in it
    """
    module, _, name = dotted.rpartition(".")
    if not module:
        raise ImportError(f"{dotted!r} has no module: write package.module.Class")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ImportError(f"module {module} has no {name}") from None


Lines = dict[tuple[str, str | None], int]


def _entry(path: Path, env_id: str, changes: Mapping[str, Any] | None = None) -> "_Entry | None":
    entries, lines = _read(path)
    key = _name_among(entries, env_id)
    if key is None:
        return None
    where = f"{path.name}, line {lines[key, None]}, {key}"
    if not isinstance(entries[key], dict):
        raise ValueError(f"{where}: expected hyperparameters, one `name: value` per line, got {entries[key]!r}")
    return _Entry({**entries[key], **(changes or {})}, path, key, lines)


def _name_among(entries: Mapping[str, Any], env_id: str) -> str | None:
    bare = env_id.rpartition(":")[2]
    of_other_modules = (name for name in entries if name.rpartition(":")[2] == bare)
    names = (env_id, bare, *of_other_modules, *(["atari"] if is_atari(env_id) else []), "default")
    return next((name for name in names if name in entries), None)


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    """Return the file's entries, and the line of each entry ``(entry, None)`` and of each of its keys ``(entry, key)``."""
    import yaml

    text = path.read_text(encoding="utf-8")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        entries = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line} is not valid YAML: {error.problem}") from None
    if root is None:
        return {}, {}
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected an environment's name at the start of each line, got a {type(entries).__name__}")
    lines: Lines = {}
    for key, value in root.value:
        if (key.value, None) in lines:
            raise ValueError(
                f"{path}, line {key.start_mark.line + 1}: {key.value} is already defined in line {lines[key.value, None]}"
            )
        lines[key.value, None] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            lines.update({(key.value, inner.value): inner.start_mark.line + 1 for inner, _ in value.value})
    return {str(key): value for key, value in entries.items()}, lines


@dataclass
class _Entry:
    """One environment's keys. Parsing removes the known ones; the rest goes to the algorithm's constructor."""

    values: dict[str, Any]
    path: Path
    env_key: str
    lines: Lines

    def parse(self, unsupported: tuple[str, ...]) -> RunConfig:
        """Return the settings; arguments and errors are those of :func:`read_config`."""
        for key in UNSUPPORTED_KEYS:
            if key in self.values and key in unsupported:
                raise self._error(key, "this key of rl_zoo3 has no effect here; remove it")
            self.values.pop(key, None)
        return RunConfig(
            source=f"{self.path.name}: {self.env_key}",
            policy=self._policy(),
            n_envs=self._count("n_envs") or 1,
            n_timesteps=self._count("n_timesteps"),
            normalize=self._normalize(),
            env_kwargs=self._mapping("env_kwargs", self.values.pop("env_kwargs", {})),
            wrappers=self._wrappers(),
            frame_stack=self._count("frame_stack"),
            vec_env=self._vec_env(),
            hyperparameters=self._hyperparameters(),
        )

    def _error(self, key: str, problem: str) -> ValueError:
        line = self.lines.get((self.env_key, key), self.lines[self.env_key, None])
        return ValueError(f"{self.path}, line {line}, {self.env_key}, {key}: {problem}")

    def _policy(self) -> str:
        policy = self.values.pop("policy", "MlpPolicy")
        if not isinstance(policy, str):
            raise self._error("policy", f"{policy!r} is not the name of a policy, such as MlpPolicy")
        return policy

    def _count(self, key: str) -> int | None:
        value = self.values.pop(key, None)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = 0.0
        if isinstance(value, bool) or not number.is_integer() or number < 1:
            raise self._error(key, f"{value!r} is not a whole number of at least 1")
        return int(number)

    def _mapping(self, key: str, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = self.evaluate(key, value)
        if not isinstance(value, Mapping):
            raise self._error(key, f"{value!r} is not a dictionary")
        return dict(value)

    def _normalize(self) -> dict[str, Any] | None:
        value = self.values.pop("normalize", False)
        if isinstance(value, bool):
            kwargs: dict[str, Any] | None = {} if value else None
        else:
            kwargs = self._mapping("normalize", value)
        if kwargs is not None and "gamma" in self.values:
            kwargs["gamma"] = self.values["gamma"]
        return kwargs

    def _wrappers(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        value = self.values.pop("env_wrapper", None) or []
        wrappers = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                item = {item: {}}
            if not (isinstance(item, dict) and len(item) == 1):
                raise self._error("env_wrapper", f"{item!r} is neither a dotted name nor one dotted name with its arguments")
            name, kwargs = next(iter(item.items()))
            try:
                _check_name(name)
            except ImportError as error:
                raise self._error("env_wrapper", str(error)) from None
            wrappers.append((name, dict(kwargs or {})))
        return tuple(wrappers)

    def _vec_env(self) -> str:
        try:
            return check_vec_env(self.values.pop("vec_env", DUMMY))
        except ValueError as error:
            raise self._error("vec_env", str(error)) from None

    def _hyperparameters(self) -> dict[str, Any]:
        for key, value in self.values.items():
            # YAML 1.1 reads 1e-3, which has no point, as a text; the algorithm would fail much later.
            if isinstance(value, str) and is_numeric_text(value):
                raise self._error(key, f"YAML reads {value} as text; write {float(value)!r} or !!float {value}")
        if isinstance(self.values.get("policy_kwargs"), str):
            self.values["policy_kwargs"] = self.evaluate("policy_kwargs", self.values["policy_kwargs"])
        return self.values

    def evaluate(self, key: str, text: str) -> Any:
        """Return the value of an expression without executing code."""
        try:
            return evaluate_expression(text)
        except ValueError as error:
            raise self._error(key, f"cannot evaluate {text!r}: {error}") from None


def _check_name(dotted: str) -> None:
    """
    Check a dotted name, as far as possible without executing code of a package that is not imported yet.

    :raises ImportError: there is no such module, or nothing of that name in it
    """
    package = dotted.partition(".")[0]
    if package in sys.modules or package in TRUSTED or "." not in dotted:
        import_name(dotted)
    elif find_spec(package) is None:
        raise ImportError(f"No module named {package!r}")


def is_numeric_text(text: str) -> bool:
    """Return whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
