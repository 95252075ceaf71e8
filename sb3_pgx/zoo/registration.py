"""Environments that other packages bring, made known to Gymnasium."""

import importlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

import gymnasium as gym


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
    found = {}
    for env_id in env_ids:
        with suppress(ImportError):  # of a package that is not installed, or not as one
            package = _simulator(register_environment(env_id))
            found[package] = version(package)
    return found


def _simulator(name: str) -> str:
    """The package of an environment; of Gymnasium's own ones, that of the folder they are in: ``box2d``, ``mujoco``."""
    if name not in gym.registry:
        raise PackageNotFoundError(name)
    entry_point = gym.registry[name].entry_point
    module = entry_point.partition(":")[0] if isinstance(entry_point, str) else entry_point.__module__
    package, *folders = module.split(".")
    return folders[1] if package == "gymnasium" and folders[:1] == ["envs"] and len(folders) > 1 else package


def sentence(error: BaseException) -> str:
    """What an error says, on one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
