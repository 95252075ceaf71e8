"""Registers the environments of other packages with Gymnasium."""

import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions

import gymnasium as gym

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.optional_packages import installed_versions

# The package that simulates an environment of Gymnasium or of this package, by its folder or module.
ENGINES = {"box2d": "Box2D", "mujoco": "mujoco", "spread": "mpe2"}


def register_environment(env_id: str) -> str:
    """
    Register an environment that another package provides. For ``module:Env-v0``, import the module. For
    ``MinAtar/Breakout-v1``, call the function that an installed package names as the entry point ``MinAtar`` of the group
    ``gymnasium.envs``.

    :param env_id: Gymnasium's name of the environment, which need not exist
    :return: the name without the module
    :raises ImportError: the module cannot be imported, or the function failed
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # perhaps a package that the module needs is missing, or a display
            raise ImportError(f"environment {env_id}: module {module} cannot be imported: {sentence(error)}") from None
    namespace, slash, _ = name.partition("/")
    if slash and name not in gym.registry:
        for plugin in entry_points(group="gymnasium.envs", name=namespace):
            try:
                run_once(plugin)
            except Exception as error:  # the function of another package may raise anything
                raise ImportError(f"environment {env_id}: {plugin.value} cannot register it: {sentence(error)}") from error
    return name


@cache
def run_once(plugin: EntryPoint) -> None:
    """Call the function, but only once: Gymnasium warns about repeated registrations."""
    plugin.load()()


def simulator_versions(env_ids: Iterable[str], envpool: bool = False) -> dict[str, str]:
    """
    Return the versions of the packages that simulate these environments, on which returns depend.

    :param env_ids: Gymnasium's names of the environments
    :param envpool: whether EnvPool simulates some of them
    """
    names = [name for env_id in env_ids if (name := _simulator(env_id)) is not None]
    return installed_versions([*names, *(["envpool"] if envpool else [])])


def _simulator(env_id: str) -> str | None:
    """Return the distribution of an environment, or of the engine for Gymnasium's and this package's; ``None`` if unknown."""
    try:
        entry_point = gym.registry[register_environment(env_id)].entry_point
    except Exception:  # reported when the environment is made
        return None
    if entry_point is None:
        return None
    module = entry_point.partition(":")[0] if isinstance(entry_point, str) else entry_point.__module__
    package, *folders = module.split(".")
    if package in ("gymnasium", "sb3_pgx"):
        package = next((ENGINES[name] for name in folders if name in ENGINES), "")
    return _distribution(package) if package else None


@cache
def _distribution(package: str) -> str:
    """Return the distribution of a package. If it has another name, finding it takes a second."""
    if installed_versions([package]):
        return package
    return next(iter(packages_distributions().get(package, ())), package)


def sentence(error: BaseException) -> str:
    """Return an error's message on one line without a final full stop, or its type if it has no message."""
    return one_line(error).rstrip(".") or type(error).__name__
