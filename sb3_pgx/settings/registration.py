"""Environments that other packages bring, made known to Gymnasium."""

import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions

import gymnasium as gym

from sb3_pgx.core.optional_packages import installed_versions

# Of Gymnasium's environments, by their folder: the package of the engine.
ENGINES = {"box2d": "Box2D", "mujoco": "mujoco"}


def register_environment(env_id: str) -> str:
    """
    Import the module before a colon; or have the package that ``MinAtar/Breakout-v1`` comes from register its environments, if
    it is installed: it names the function that does so as an entry point ``MinAtar`` of the group ``gymnasium.envs``.

    :param env_id: Gymnasium's name of the environment, known or not
    :return: the name without the module
    :raises ImportError: the module cannot be imported, or the function failed
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:  # perhaps of something that the module needs
            raise ImportError(f"environment {env_id}: module {module} cannot be imported: {sentence(error)}") from None
    namespace, slash, _ = name.partition("/")
    if slash and name not in gym.registry:
        for plugin in entry_points(group="gymnasium.envs", name=namespace):
            try:
                run_once(plugin)
            except Exception as error:  # of any package
                raise ImportError(f"environment {env_id}: {plugin.value} cannot register it: {sentence(error)}") from error
    return name


@cache
def run_once(plugin: EntryPoint) -> None:
    """Call the function; not again for another name, since Gymnasium warns of what is registered twice."""
    plugin.load()()


def simulator_versions(env_ids: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages that simulate environments: what a policy returns depends on them."""
    return installed_versions(name for env_id in env_ids if (name := _simulator(env_id)) is not None)


def _simulator(env_id: str) -> str | None:
    """The distribution that an environment is from; of Gymnasium's own ones, that of their engine."""
    try:
        entry_point = gym.registry[register_environment(env_id)].entry_point
    except Exception:  # of any package; whoever makes the environment is told
        return None
    if entry_point is None:
        return None
    module = entry_point.partition(":")[0] if isinstance(entry_point, str) else entry_point.__module__
    package, *folders = module.split(".")
    engine = package if package != "gymnasium" else next((ENGINES[name] for name in folders if name in ENGINES), None)
    return None if engine is None else _distribution(engine)


@cache
def _distribution(package: str) -> str:
    """The distribution that a package is imported from, which may have another name: to look for that takes a second."""
    if installed_versions([package]):
        return package
    return next(iter(packages_distributions().get(package, ())), package)


def sentence(error: BaseException) -> str:
    """What an error says, on one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
